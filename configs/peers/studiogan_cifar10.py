"""PyTorch-StudioGAN's SAGAN on CIFAR-10 at 32x32, with its order of updates.

sagan prepare cifar10 --data-dir data
python train.py configs/peers/studiogan_cifar10.py --workdir runs/sg --data.path data
Cost and FID: not run here. Published: FID 14.01 and Inception Score 8.68 (v0.3: 10,000
samples against the test set, batch statistics: --batch-norm batch --split test), and
10.35 and 8.64 (v0.4: standing statistics, training set, another resizer, mixed
precision). MMGeneration evaluates the first weights at 10.20 and 9.12.
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
    "g.sn_tables": "StudioGAN utils/ops.py:21-28: a normalised linear map of the label",
    "g.bn_group": "one group: the whole batch, as on one GPU; several need -sync_bn",
    "g.bn_momentum": "StudioGAN utils/ops.py:19,227: PyTorch's 0.1, which is 0.9 here",
    "g.bn_momentum_out": "as g.bn_momentum",
    "g.bn_eps": "StudioGAN utils/ops.py:19,227",
    "g.bn_unbiased": "PyTorch's batch norm",
    "g.width": "StudioGAN: three blocks of 256 channels (4,386,308 parameters)",
    "g.multipliers": "StudioGAN: three blocks of 256 channels",
    "g.attention": "StudioGAN CIFAR10/SAGAN.yaml: attn_g_loc [2]",
    "d.rectified_shortcut": "StudioGAN models/resnet.py:234-247 with an in-place ReLU",
    "d.width": "StudioGAN: 128 channels everywhere (1,075,586 parameters)",
    "d.multipliers": "StudioGAN: two blocks down, two flat",
    "d.down": "StudioGAN: two blocks down, two flat",
    "d.attention": "StudioGAN CIFAR10/SAGAN.yaml: attn_d_loc [1]",
    "model.init": "StudioGAN's default: ortho",
    "model.sn_eps": "StudioGAN utils/ops.py:204,220,224",
    "model.sn_clamp": "PyTorch's spectral norm",
    "model.sn_detach": "PyTorch's spectral norm",
    "optim.eps": "StudioGAN config.py:552",
    "optim.g_lr": "StudioGAN's default",
    "optim.d_lr": "StudioGAN's default",
    "optim.betas": "StudioGAN's default",
    "optim.d_steps": "StudioGAN's default",
    "rule.d_passes": "StudioGAN worker.py: D(real), then D(fake)",
    "rule.g_step_moves_d": "PyTorch's spectral norm, which nothing freezes",
    "rule.d_step_moves_averages": "StudioGAN worker.py:225 switches the tracking off",
}


def config() -> Config:
    """Flips; StudioGAN's layout, initialisation, epsilons and update rule."""
    return Config(
        data=DataConfig(name="cifar10", size=32, batch=64, flip=True),
        g=GeneratorConfig(
            width=256,
            multipliers=(1, 1, 1, 1),
            attention=(16,),
            sn_tables="channels",
            bn_group=0,
            bn_momentum=0.9,
            bn_momentum_out=0.9,
            bn_eps=1e-4,
            bn_unbiased=True,
        ),
        d=DiscriminatorConfig(
            width=128,
            multipliers=(1, 1, 1, 1),
            down=2,
            attention=(16,),
            rectified_shortcut=True,
        ),
        model=ModelConfig(
            init="orthogonal", sn_eps=1e-6, sn_clamp=True, sn_detach=True
        ),
        optim=OptimConfig(
            g_lr=2e-4, d_lr=2e-4, betas=(0.5, 0.999), eps=1e-6, d_steps=5
        ),
        rule=RuleConfig(
            d_passes="apart", g_step_moves_d=True, d_step_moves_averages=False
        ),
        run=RunConfig(steps=100_000, checkpoint_every=2000),
    )
