"""Table 1 of the paper: residual block at 16x16 in both networks.

python train.py configs/table1/residual16.py --workdir runs/residual16 --data.path D
Cost and FID: not run here; 1M steps in the paper.
"""

from sagan.config import Config, replace

ROW = {
    "g.attention": (16,),
    "d.attention": (16,),
    "g.block": "residual",
    "d.block": "residual",
}
PROVENANCE = dict.fromkeys(
    ROW, "arXiv:1805.08318, table 1, which leaves the block open"
)


def config() -> Config:
    """The official recipe with this row's layer."""
    return replace(Config(), ROW)
