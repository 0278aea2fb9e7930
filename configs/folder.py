"""Your own images at 64x64: a folder, with a sub-folder for each class or without.

python train.py configs/folder.py --workdir runs/mine --data.path path/to/images
Smaller or larger: --data.size 128; with attention at half the size, as here: also
--g.attention 64 --d.attention 64. Grey images: --data.channels 1. Out of memory:
--optim.accumulate 4 --g.bn_group 16.
Cost: see the README's table; on a CPU start with --g.width 16 --d.width 16.
"""

from sagan.config import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    EmaConfig,
    GeneratorConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)

PROVENANCE = {
    "g.bn_group": "ours: one group, as the batch is small",
    "g.bn_momentum": "BigGAN-PyTorch and MMGeneration: 0.9",
    "g.bn_momentum_out": "as g.bn_momentum",
    "model.sn_detach": "PyTorch, TF-GAN and compare_gan detach u and v",
    "ema.decays": "MMGeneration",
    "ema.start": "ours: the averages are useful early in a short run",
}


def config() -> Config:
    """The recommended recipe at a size and batch for one GPU."""
    return Config(
        data=DataConfig(name="folder", size=64, batch=64, flip=True),
        g=GeneratorConfig(bn_group=0, bn_momentum=0.9, bn_momentum_out=0.9),
        d=DiscriminatorConfig(),
        model=ModelConfig(sn_detach=True),
        optim=OptimConfig(),
        ema=EmaConfig(decays=(0.999,), start=500),
        run=RunConfig(
            steps=100_000, log_every=50, sample_every=500, checkpoint_every=1000
        ),
    )
