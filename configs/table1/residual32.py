"""Table 1 of the paper: residual at 32x32 in both networks.

python train.py configs/table1/residual32.py --workdir runs/residual32 --data.path D
Cost and FID: not run here; 1M steps each in the paper.
"""

from sagan.config import Config, DiscriminatorConfig, GeneratorConfig

PROVENANCE = {
    "g.block": "arXiv:1805.08318, table 1; its text leaves the block open",
    "d.block": "arXiv:1805.08318, table 1; its text leaves the block open",
}


def config() -> Config:
    """The official recipe with the slot of table 1."""
    return Config(
        g=GeneratorConfig(attention=(32,), block="residual"),
        d=DiscriminatorConfig(attention=(32,), block="residual"),
    )
