"""The recommended recipe for ImageNet at 64x64, attention at 32x32.

python train.py configs/imagenet64.py --workdir runs/imagenet64 --data.path data
Cost and FID: not run here.
"""

import pathlib

from sagan.config import Config, load, provenance

BASE = pathlib.Path(__file__).with_name("imagenet128.py")
CHANGES = {
    "data.size": 64,
    "g.attention": (32,),  # the default, and StudioGAN's at 64 px
    "d.attention": (32,),
    "run.steps": 500_000,
}
PROVENANCE = {k: v for k, v in provenance(BASE).items() if k not in CHANGES}


def config() -> Config:
    """imagenet128 with one block less in each network."""
    return load(BASE, CHANGES)
