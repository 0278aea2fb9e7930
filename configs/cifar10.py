"""SAGAN on CIFAR-10 at 32x32, in StudioGAN's layout: attention at 16x16.

sagan prepare cifar10 --data-dir data
python train.py configs/cifar10.py --workdir runs/cifar10 --data.path data
Cost and FID: not run here. StudioGAN's log of its own code in this layout: FID 48.9 at
2k, 27.7 at 10k and 14.0 at 90k steps, 28 s for 100 steps on one Titan RTX.

StudioGAN has besides (sagan diff cifar10 peers/studiogan_cifar10): flips; normalised
batch-norm tables; shortcuts of D from rectified features; orthogonal initialisation;
epsilons of 1e-4 in batch norm, 1e-6 in Adam and, without effect, 1e-6 in spectral
normalisation; unbiased running variances. Real and fake images pass D apart, each
moves D's u, and so does G's update. G's running averages move once a step, in its own
update, where here they move six times. It has no average of the weights.
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
    "g.width": "StudioGAN: three blocks of 256 channels (4,386,308 parameters)",
    "g.multipliers": "StudioGAN: three blocks of 256 channels",
    "g.attention": "StudioGAN CIFAR10/SAGAN.yaml: attn_g_loc [2]",
    "g.bn_group": "one group: the whole batch of 64, as on StudioGAN's one GPU",
    "g.bn_momentum": "StudioGAN and MMGeneration: PyTorch's 0.1, which is 0.9 here",
    "g.bn_momentum_out": "as g.bn_momentum",
    "d.width": "StudioGAN: 128 channels everywhere (1,075,586 parameters)",
    "d.multipliers": "StudioGAN: two blocks down, two flat",
    "d.down": "StudioGAN: two blocks down, two flat",
    "d.attention": "StudioGAN CIFAR10/SAGAN.yaml: attn_d_loc [1]",
    "model.sn_detach": "PyTorch, TF-GAN and compare_gan detach u and v",
    "optim.g_lr": "StudioGAN's default for CIFAR10",
    "optim.d_lr": "StudioGAN's default for CIFAR10",
    "optim.betas": "StudioGAN's default for CIFAR10",
    "optim.d_steps": "StudioGAN's default for CIFAR10: five D updates",
    "ema.decays": "ours; StudioGAN has none here. BigGAN-PyTorch: 0.9999",
    "ema.start": "ours; BigGAN-PyTorch and MMGeneration start at 2000",
}


def config() -> Config:
    """StudioGAN's layout and rates, the official code's networks and update rule."""
    return Config(
        data=DataConfig(name="cifar10", size=32, batch=64),
        g=GeneratorConfig(
            width=256,
            multipliers=(1, 1, 1, 1),
            attention=(16,),
            bn_group=0,
            bn_momentum=0.9,
            bn_momentum_out=0.9,
        ),
        d=DiscriminatorConfig(
            width=128, multipliers=(1, 1, 1, 1), down=2, attention=(16,)
        ),
        model=ModelConfig(sn_detach=True),
        optim=OptimConfig(g_lr=2e-4, d_lr=2e-4, betas=(0.5, 0.999), d_steps=5),
        ema=EmaConfig(decays=(0.9999,), start=1000),
        run=RunConfig(
            steps=100_000, log_every=100, sample_every=1000, checkpoint_every=2000
        ),
    )
