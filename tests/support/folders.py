"""Small folders of images, and the errors that they lead to."""

import numpy as np
import pytest
from PIL import Image

from sagan.config import Config, ConfigError, DataConfig, OptimConfig, RunConfig
from sagan.data.pipeline import open_source


def make(seed=0, d_steps=1, **data):
    """A config of 8x8 images, of which there may be any."""
    data = {"name": "folder", "size": 8, "batch": 4} | data
    return Config(
        data=DataConfig(**data),
        optim=OptimConfig(d_steps=d_steps),
        run=RunConfig(seed=seed),
    )


def noise(height=8, width=8, channels=3, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if pixels is None else pixels).save(path, **options)
    return path


def two_classes(root, count=3):
    for label, name in enumerate(["cat", "dog"]):
        for i in range(count):
            write(root / name / f"{i}.png", noise(seed=10 * label + i))
    return root


def errors(config, split=None):
    with pytest.raises(ConfigError) as caught:
        open_source(config, split)
    return str(caught.value).splitlines()


def error(config, split=None):
    (line,) = errors(config, split)
    return line
