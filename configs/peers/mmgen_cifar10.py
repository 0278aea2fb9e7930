"""MMGeneration's SAGAN on CIFAR-10 at 32x32, without its in-place ReLU.

sagan prepare cifar10 --data-dir data
python train.py configs/peers/mmgen_cifar10.py --workdir runs/mm --data.path data
Cost and FID: not run here. Published: FID 9.43 and Inception Score 9.32 after 96k steps
(480k updates of D; 50,000 samples against the whole training set, Tero's Inception);
with the in-place ReLU, --d.rectified-shortcut, FID 10.78. It trains on BGR images.
"""

from sagan.config import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    ModelConfig,
    OptimConfig,
    RuleConfig,
    RunConfig,
)

PROVENANCE = {
    "g.bn_momentum": "MMGeneration: PyTorch's 0.1, which is 0.9 here",
    "g.bn_momentum_out": "as g.bn_momentum",
    "g.bn_unbiased": "PyTorch's batch norm",
    "g.width": "as in StudioGAN: three blocks of 256 channels (4,386,308 parameters)",
    "g.multipliers": "as in StudioGAN: three blocks of 256 channels",
    "g.attention": "MMGeneration sagan_32x32.py: after the second block",
    "g.sn_tables": "MMGeneration: with_embedding_spectral_norm as with_spectral_norm",
    "g.bn_group": "one group: the whole batch, on one GPU",
    "g.bn_eps": "MMGeneration sngan_proj/modules.py: norm_eps 1e-4",
    "d.width": "as in StudioGAN: 128 channels everywhere (1,075,586 parameters)",
    "d.multipliers": "as in StudioGAN: two blocks down, two flat",
    "d.down": "as in StudioGAN: two blocks down, two flat",
    "d.attention": "MMGeneration sagan_32x32.py: after the first block",
    "model.sn_clamp": "PyTorch's spectral norm",
    "model.sn_detach": "PyTorch's spectral norm",
    "model.sn_eval": "PyTorch's spectral norm after eval()",
    "model.init": "MMGeneration sagan_32_woReLUinplace: init type studio",
    "optim.g_lr": "MMGeneration sagan_32x32.py",
    "optim.d_lr": "MMGeneration sagan_32x32.py",
    "optim.betas": "MMGeneration sagan_32x32.py",
    "optim.d_steps": "MMGeneration sagan_32x32.py",
    "rule.d_passes": "MMGeneration BasiccGAN: D(real) and D(fake) apart",
    "rule.g_step_moves_d": "PyTorch's spectral norm, which nothing freezes",
}


def config() -> Config:
    """Flips; StudioGAN's layout and initialisation, tables normalised by class."""
    return Config(
        data=DataConfig(name="cifar10", size=32, batch=64, flip=True),
        g=GeneratorConfig(
            width=256,
            multipliers=(1, 1, 1, 1),
            attention=(16,),
            sn_tables="classes",
            bn_group=0,
            bn_momentum=0.9,
            bn_momentum_out=0.9,
            bn_eps=1e-4,
            bn_unbiased=True,
        ),
        d=DiscriminatorConfig(
            width=128, multipliers=(1, 1, 1, 1), down=2, attention=(16,)
        ),
        model=ModelConfig(
            init="orthogonal", sn_clamp=True, sn_detach=True, sn_eval="stored"
        ),
        optim=OptimConfig(g_lr=2e-4, d_lr=2e-4, betas=(0.5, 0.999), d_steps=5),
        rule=RuleConfig(d_passes="apart", g_step_moves_d=True),
        run=RunConfig(steps=100_000, checkpoint_every=2000),
    )
