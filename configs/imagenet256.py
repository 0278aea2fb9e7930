"""SAGAN on ImageNet at 256x256, attention at 64x64 and 128x128, for one v5e chip.

sagan prepare imagenet2012 --data-dir data
python train.py configs/imagenet256.py --workdir runs/imagenet256 --data.path data
Cost and FID: not run here. Memory, planned and compiled for one v5e chip: 6.6 of its
15.75 GiB; 7.6 with --model.no-remat; with --model.attention-chunks 1 it does not fit.
sagan plan configs/imagenet256.py --topology v5e:1x1 (benchmarks/results/plan256.txt).
"""

import pathlib

from sagan.config import Config, load, provenance

BASE = pathlib.Path(__file__).with_name("imagenet128.py")
PROVENANCE = provenance(BASE) | {
    "g.attention": "ours: 64x64 as at 128 px, and the next resolution",
    "d.attention": "as g.attention",
    "model.dtype": "ours: half the memory of float32, and the chip's own type",
    "model.remat": "ours: 6.6 GiB of a v5e chip; 7.6 without, which is faster",
    "model.attention_chunks": "ours: at 128x128 all of beta takes 256 MiB an image",
    "optim.accumulate": "ours: micro-batches of 32, which is g.bn_group",
}


def config() -> Config:
    """imagenet128 with one more block in each network, and settings to save memory."""
    changes = {
        "data.size": 256,
        "g.attention": (64, 128),
        "d.attention": (64, 128),
        "model.dtype": "bfloat16",
        "model.remat": True,
        "model.attention_chunks": 32,
        "optim.accumulate": 8,
    }
    return load(BASE, changes)
