"""Table 1 of the paper: residual at 8x8 in both networks.

python train.py configs/table1/residual8.py --workdir runs/residual8 --data.path D
Cost and FID: not run here; 1M steps each in the paper.
"""

from sagan.config import Config, DiscriminatorConfig, GeneratorConfig

PROVENANCE = {
    "g.attention": "arXiv:1805.08318, table 1",
    "d.attention": "arXiv:1805.08318, table 1",
    "g.block": "arXiv:1805.08318, table 1; its text leaves the block open",
    "d.block": "arXiv:1805.08318, table 1; its text leaves the block open",
}


def config() -> Config:
    """The official recipe with the slot of table 1."""
    return Config(
        g=GeneratorConfig(attention=(8,), block="residual"),
        d=DiscriminatorConfig(attention=(8,), block="residual"),
    )
