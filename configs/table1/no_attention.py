"""Table 1 of the paper: no attention in either network, the baseline.

python train.py configs/table1/no_attention.py --workdir runs/no_attention --data.path D
Cost and FID: not run here; 1M steps in the paper.
"""

from sagan.config import Config, replace

ROW = {
    "g.attention": (),
    "d.attention": (),
}
PROVENANCE = dict.fromkeys(ROW, "arXiv:1805.08318, table 1")


def config() -> Config:
    """The official recipe with this row's layer."""
    return replace(Config(), ROW)
