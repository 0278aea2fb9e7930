"""PyTorch-StudioGAN's SAGAN on ImageNet at 128x128, with its order of updates.

sagan prepare imagenet2012 --data-dir data
python train.py configs/peers/studiogan_imagenet128.py --workdir runs/s --data.path data
Cost and FID: not run here. Published (v0.3, 50,000 samples, validation set): FID 34.73,
Inception Score 29.85 at 920k steps. StudioGAN's random crops are not among our
augmentations: images are cropped to their centre.
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
    "g.attention": "StudioGAN ImageNet/SAGAN-256.yaml: attn_g_loc [4]",
    "d.rectified_shortcut": "StudioGAN models/resnet.py:234-247 with an in-place ReLU",
    "d.attention": "StudioGAN ImageNet/SAGAN-256.yaml: attn_d_loc [1]",
    "model.init": "StudioGAN's default: ortho",
    "model.sn_eps": "StudioGAN utils/ops.py:204,220,224",
    "model.sn_clamp": "PyTorch's spectral norm",
    "model.sn_detach": "PyTorch's spectral norm",
    "optim.eps": "StudioGAN config.py:552",
    "rule.d_passes": "StudioGAN worker.py: D(real), then D(fake)",
    "rule.g_step_moves_d": "PyTorch's spectral norm, which nothing freezes",
    "rule.d_step_moves_averages": "StudioGAN worker.py:225 switches the tracking off",
}


def config() -> Config:
    """Flips; attention at 64x64; StudioGAN's initialisation, epsilons and rule."""
    return Config(
        data=DataConfig(name="imagenet2012", size=128, batch=256, flip=True),
        g=GeneratorConfig(
            attention=(64,),
            sn_tables="channels",
            bn_group=0,
            bn_momentum=0.9,
            bn_momentum_out=0.9,
            bn_eps=1e-4,
            bn_unbiased=True,
        ),
        d=DiscriminatorConfig(attention=(64,), rectified_shortcut=True),
        model=ModelConfig(
            init="orthogonal", sn_eps=1e-6, sn_clamp=True, sn_detach=True
        ),
        optim=OptimConfig(eps=1e-6),
        rule=RuleConfig(
            d_passes="apart", g_step_moves_d=True, d_step_moves_averages=False
        ),
        run=RunConfig(sample_every=2000, checkpoint_every=5000),
    )
