"""Table 1 of the paper: nothing in the slot: the baseline.

python train.py configs/table1/no_attention.py --workdir runs/no_attention --data.path D
Cost and FID: not run here; 1M steps each in the paper.
"""

from sagan.config import Config, DiscriminatorConfig, GeneratorConfig

PROVENANCE = {
    "g.attention": "arXiv:1805.08318, table 1",
    "d.attention": "arXiv:1805.08318, table 1",
}


def config() -> Config:
    """The official recipe with the slot of table 1."""
    return Config(g=GeneratorConfig(attention=()), d=DiscriminatorConfig(attention=()))
