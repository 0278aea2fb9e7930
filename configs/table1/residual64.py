"""Table 1 of the paper: residual block at 64x64 in both networks.

python train.py configs/table1/residual64.py --workdir runs/residual64 --data.path D
Cost and FID: not run here; 1M steps in the paper.
"""

from sagan.config import Config, replace

ROW = {
    "g.attention": (64,),
    "d.attention": (64,),
    "g.block": "residual",
    "d.block": "residual",
}
PROVENANCE = dict.fromkeys(
    ROW, "arXiv:1805.08318, table 1, which leaves the block open"
)


def config() -> Config:
    """The official recipe with this row's layer."""
    return replace(Config(), ROW)
