"""Table 1 of the paper: residual at 16x16 in both networks.

python train.py configs/table1/residual16.py --workdir runs/residual16 --data.path D
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
        g=GeneratorConfig(attention=(16,), block="residual"),
        d=DiscriminatorConfig(attention=(16,), block="residual"),
    )
