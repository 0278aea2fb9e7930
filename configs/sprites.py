"""Sprites of The Battle for Wesnoth at 64x64, 12 races: real colour images on a CPU.

python train.py configs/sprites.py --workdir runs/sprites/run \
    --data.path runs/sprites/images
`python benchmarks/sprites.py` makes the folder, and trains, evaluates and draws.
Cost: 53 minutes on two cores of an AMD EPYC at its undisturbed speed, 60 images a
second. The races then differ in shape and colour; details need more steps.
"""

from sagan.config import (
    AugmentConfig,
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
    "g.z": "ours: few images need fewer latents",
    "g.width": "ours: for a CPU",
    "g.bn_group": "ours: one group, as the batch is small",
    "g.bn_momentum": "BigGAN-PyTorch and MMGeneration: 0.9",
    "g.bn_momentum_out": "as g.bn_momentum",
    "d.width": "ours: for a CPU",
    "model.sn_detach": "PyTorch, TF-GAN and compare_gan detach u and v",
    "optim.g_lr": "ours: twice official; at 4e-4, G collapsed by step 2000",
    "optim.d_lr": "ours: twice official, as g_lr",
    "ema.decays": "MMGeneration",
    "ema.start": "ours: the averages are useful early in a short run",
    "augment.policy": "arXiv:2006.10738 recommends it for little data",
}


def config() -> Config:
    """A narrow SAGAN with attention at 32x32; sprites face one way, so no flips."""
    return Config(
        data=DataConfig(name="folder", size=64, batch=32),
        g=GeneratorConfig(
            z=64, width=16, bn_group=0, bn_momentum=0.9, bn_momentum_out=0.9
        ),
        d=DiscriminatorConfig(width=16),
        model=ModelConfig(sn_detach=True),
        optim=OptimConfig(g_lr=2e-4, d_lr=8e-4),
        ema=EmaConfig(decays=(0.999,), start=500),
        augment=AugmentConfig(policy="color,translation"),
        run=RunConfig(
            steps=6_000, log_every=50, sample_every=500, checkpoint_every=200
        ),
    )
