"""The recommended recipe for ImageNet at 64x64, attention at 32x32.

python train.py configs/imagenet64.py --workdir runs/imagenet64 --data.path data
Cost and FID: not run here.
"""

import dataclasses
import pathlib
import runpy

from sagan.config import Config, DataConfig, DiscriminatorConfig, RunConfig

_BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("imagenet128.py")))

# attention is at 32x32 as in the defaults, and as in StudioGAN's 64 px recipes
PROVENANCE = {
    name: source
    for name, source in _BASE["PROVENANCE"].items()
    if name not in ("g.attention", "d.attention")
}


def config() -> Config:
    """imagenet128 with one block less in each network."""
    base = _BASE["config"]()
    return dataclasses.replace(
        base,
        data=DataConfig(name="imagenet2012", size=64, batch=256),
        g=dataclasses.replace(base.g, attention=(32,)),
        d=DiscriminatorConfig(attention=(32,)),
        run=RunConfig(steps=500_000, sample_every=2000, checkpoint_every=5000),
    )
