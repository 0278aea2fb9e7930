"""Table 1 of the paper: attention at 32x32 in both networks.

python train.py configs/table1/attention32.py --workdir runs/attention32 --data.path D
Cost and FID: not run here; 1M steps each in the paper.
"""

from sagan.config import Config, Discriminator, Generator


def config() -> Config:
    """The official recipe with the slot of table 1."""
    return Config(g=Generator(attention=(32,)), d=Discriminator(attention=(32,)))
