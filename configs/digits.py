"""Handwritten digits at 16x16 on a laptop's CPU, with nothing to download.

python train.py configs/digits.py --workdir runs/digits
Cost: about four minutes on two CPU cores. A classifier recognises 99.7 to 99.9 % of
2,000 samples as their label (averaged weights; three seeds of benchmarks/digits.py).
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
    "g.z": "ours: small images need fewer latents",
    "g.width": "ours: for a CPU",
    "g.attention": "ours: the middle of a 16x16 network",
    "g.bn_group": "ours: one group, as the batch is small",
    "g.bn_momentum": "BigGAN-PyTorch and MMGeneration: 0.9",
    "g.bn_momentum_out": "as g.bn_momentum",
    "d.width": "ours: for a CPU",
    "d.attention": "ours: the middle of a 16x16 network",
    "model.sn_detach": "PyTorch, TF-GAN and compare_gan detach u and v",
    "optim.g_lr": "ours: higher than official, for a run of minutes",
    "optim.d_lr": "ours: higher than official, for a run of minutes",
    "ema.decays": "ours: an average over the last 500 steps or so",
    "ema.start": "ours: the averages are useful early in a short run",
}


def config() -> Config:
    """A small SAGAN: attention at 8x8 in both networks."""
    return Config(
        data=DataConfig(name="digits", size=16, channels=1, batch=64),
        g=GeneratorConfig(
            z=32,
            width=16,
            attention=(8,),
            bn_group=0,
            bn_momentum=0.9,
            bn_momentum_out=0.9,
        ),
        d=DiscriminatorConfig(width=16, attention=(8,)),
        model=ModelConfig(sn_detach=True),
        optim=OptimConfig(g_lr=4e-4, d_lr=1e-3),
        ema=EmaConfig(decays=(0.998,), start=500),
        run=RunConfig(steps=2000, log_every=50, sample_every=250, checkpoint_every=500),
    )
