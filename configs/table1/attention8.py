"""Table 1 of the paper: attention at 8x8 in both networks.

python train.py configs/table1/attention8.py --workdir runs/attention8 --data.path D
Cost and FID: not run here; 1M steps in the paper.
"""

from sagan.config import Config, replace

ROW = {
    "g.attention": (8,),
    "d.attention": (8,),
}
PROVENANCE = dict.fromkeys(ROW, "arXiv:1805.08318, table 1")


def config() -> Config:
    """The official recipe with this row's layer."""
    return replace(Config(), ROW)
