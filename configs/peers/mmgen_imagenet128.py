"""MMGeneration's best SAGAN on ImageNet at 128x128, its "BigGAN schedule".

sagan prepare imagenet2012 --data-dir data
python train.py configs/peers/mmgen_imagenet128.py --workdir runs/mm --data.path data
Cost and FID: not run here. Published: FID 12.83 at 826k steps (50,000 averaged samples
against the whole training set, Tero's Inception), Inception Score 69.5. It trains on
BGR images. The best public number: configs/imagenet128.py follows it. Its class tables
start at random numbers, ours at scales of 1 and biases of 0.
"""

from sagan.config import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    EmaConfig,
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
    "g.attention": "MMGeneration sagan_128x128.py: after the fourth block",
    "g.bn_group": "samples_per_gpu 32, auto_sync_bn False",
    "d.attention": "MMGeneration sagan_128x128.py: after the first block",
    "model.sn_clamp": "PyTorch's spectral norm",
    "model.sn_detach": "PyTorch's spectral norm",
    "model.sn_eval": "PyTorch's spectral norm after eval()",
    "model.sn_eps": "sagan_128_woReLUinplace_noaug_bigGAN: 1e-8; of the blocks alone",
    "rule.d_passes": "MMGeneration BasiccGAN: D(real) and D(fake) apart",
    "rule.g_step_moves_d": "PyTorch's spectral norm, which nothing freezes",
    "ema.decays": "sagan_128_woReLUinplace_noaug_bigGAN: momentum 0.999",
    "ema.start": "sagan_128_woReLUinplace_noaug_bigGAN: from step 2000",
}


def config() -> Config:
    """Attention at 64x64, groups of 32 images, an average of the weights."""
    return Config(
        data=DataConfig(name="imagenet2012", size=128, batch=256),
        g=GeneratorConfig(
            attention=(64,),
            bn_group=32,
            bn_momentum=0.9,
            bn_momentum_out=0.9,
            bn_unbiased=True,
        ),
        d=DiscriminatorConfig(attention=(64,)),
        model=ModelConfig(sn_eps=1e-8, sn_clamp=True, sn_detach=True, sn_eval="stored"),
        optim=OptimConfig(),
        rule=RuleConfig(d_passes="apart", g_step_moves_d=True),
        ema=EmaConfig(decays=(0.999,), start=2000),
        run=RunConfig(sample_every=2000, checkpoint_every=5000),
    )
