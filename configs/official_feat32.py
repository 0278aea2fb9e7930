"""The released TF1 code on ImageNet at 128x128: attention at 32x32 in both networks.

sagan prepare imagenet2012 --data-dir data
python train.py configs/official_feat32.py --workdir runs/feat32 --data.path data
Cost and FID: not run here. The paper's row: FID 18.28, Inception Score 51.43 after 1M
steps; TF-GAN took 27 days on 8 V100 for 1.8M.
"""

from sagan.config import Config


def config() -> Config:
    """The defaults, from which every other recipe differs."""
    return Config()
