"""Handwritten digits at 16x16 on a laptop's CPU, with nothing to download.

python train.py configs/digits.py --workdir runs/digits
"""

from sagan.config import Config, Data, Discriminator, Ema, Generator, Optim, Run


def config() -> Config:
    """A small SAGAN: attention at 8x8 in both networks."""
    return Config(
        data=Data(name="digits", size=16, channels=1, batch=64),
        g=Generator(z=32, width=32, multipliers=(2, 2, 1), attention=(8,), bn_group=0),
        d=Discriminator(width=32, multipliers=(1, 2, 2), attention=(8,)),
        optim=Optim(g_lr=2e-4, d_lr=8e-4),
        ema=Ema(decays=(0.998,)),
        run=Run(steps=3000, log_every=50, sample_every=500, checkpoint_every=1000),
    )
