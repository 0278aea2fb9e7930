"""Fashion-MNIST at 28x28, grey, in 10 classes, on a laptop's CPU.

python train.py configs/fashion_mnist.py --workdir runs/fashion
The four IDX files come from Debian's package dataset-fashion-mnist, or from any folder
that --data.path names. For mnist and kmnist: --data.name kmnist --data.path DIR.
Cost: 2.2 h on two busy cores (280 images a second when they are free). Result: Fréchet
distance of classifier features 0.76, real against real 0.03; see
benchmarks/results/fashion_mnist.md.
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
    "g.attention": "ours: the middle of a 28x28 network",
    "g.bn_group": "ours: one group, as the batch is small",
    "g.bn_momentum": "BigGAN-PyTorch and MMGeneration: 0.9",
    "g.bn_momentum_out": "as g.bn_momentum",
    "d.width": "ours: for a CPU",
    "d.attention": "ours: the middle of a 28x28 network",
    "model.sn_detach": "PyTorch, TF-GAN and compare_gan detach u and v",
    "optim.g_lr": "ours: twice the official rate, for a run of two hours",
    "optim.d_lr": "ours: twice the official rate, for a run of two hours",
    "ema.decays": "MMGeneration",
    "ema.start": "ours: the averages are useful early in a short run",
}


def config() -> Config:
    """A small SAGAN: attention at 14x14 in both networks."""
    return Config(
        data=DataConfig(name="fashion_mnist", size=28, channels=1, batch=64),
        g=GeneratorConfig(
            z=64,
            width=32,
            attention=(14,),
            bn_group=0,
            bn_momentum=0.9,
            bn_momentum_out=0.9,
        ),
        d=DiscriminatorConfig(width=32, attention=(14,)),
        model=ModelConfig(sn_detach=True),
        optim=OptimConfig(g_lr=2e-4, d_lr=8e-4),
        ema=EmaConfig(decays=(0.999,), start=1000),
        run=RunConfig(
            steps=12_000, log_every=50, sample_every=500, checkpoint_every=500
        ),
    )
