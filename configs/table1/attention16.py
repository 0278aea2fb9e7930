"""Table 1 of the paper: attention at 16x16 in both networks.

python train.py configs/table1/attention16.py --workdir runs/attention16 --data.path D
Cost and FID: not run here; 1M steps in the paper.
"""

from sagan.config import Config, replace

ROW = {
    "g.attention": (16,),
    "d.attention": (16,),
}
PROVENANCE = dict.fromkeys(ROW, "arXiv:1805.08318, table 1")


def config() -> Config:
    """The official recipe with this row's layer."""
    return replace(Config(), ROW)
