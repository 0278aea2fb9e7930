"""The SAGAN script of BigGAN-PyTorch on ImageNet at 128x128, two micro-batches a step.

sagan prepare imagenet2012 --data-dir data
python train.py configs/peers/biggan_pytorch_sagan.py --workdir runs/bg --data.path data
Cost and FID: not run here, and none is published. Its average of G averages the vectors
u too; here an average is evaluated with those of the current weights. Its class tables
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
    "g.attention": "BigGAN-PyTorch launch_SAGAN_bs128x2_ema.sh: --G_attn 64",
    "g.bn_group": "--batch_size 128 on four GPUs: the early script, and the README",
    "g.bn_momentum": "BigGAN-PyTorch layers.py: PyTorch's 0.1, which is 0.9 here",
    "g.bn_momentum_out": "as g.bn_momentum",
    "g.bn_unbiased": "PyTorch's batch norm",
    "d.attention": "BigGAN-PyTorch launch_SAGAN_bs128x2_ema.sh: --D_attn 64",
    "model.sn_eps": "BigGAN-PyTorch launch_SAGAN_bs128x2_ema.sh: --SN_eps 1e-8",
    "model.sn_clamp": "BigGAN-PyTorch layers.py: torch.nn.functional.normalize",
    "model.sn_detach": "BigGAN-PyTorch layers.py: no gradient of u and v",
    "optim.accumulate": "launch_SAGAN_bs128x2_ema.sh: --num_D_accumulations 2",
    "rule.g_step_moves_d": "BigGAN-PyTorch layers.py: every pass in training moves u",
    "rule.sequential_micro_batches": "BigGAN-PyTorch train_fns.py: in turn",
    "ema.decays": "BigGAN-PyTorch's default with --ema: 0.9999",
    "ema.start": "launch_SAGAN_bs128x2_ema.sh: --ema_start 2000",
}


def config() -> Config:
    """Attention at 64x64, 32 images a batch-norm group, an average of the weights."""
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
        model=ModelConfig(sn_eps=1e-8, sn_clamp=True, sn_detach=True),
        optim=OptimConfig(accumulate=2),
        rule=RuleConfig(g_step_moves_d=True, sequential_micro_batches=True),
        ema=EmaConfig(decays=(0.9999,), start=2000),
        run=RunConfig(sample_every=2000, checkpoint_every=5000),
    )
