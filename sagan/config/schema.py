"""What differs between two rows of a results table.

The defaults are the official recipe: the released TF1 code of Zhang et al. 2019
(brain-research/self-attention-gan), ImageNet at 128x128, attention at 32x32. A file in
`configs/` names only what it changes.
"""

import dataclasses
from typing import Literal


class ConfigError(ValueError):
    """A user's mistake: the message is all that the user needs to see."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images, and how many of them make a step."""

    name: str = "imagenet2012"
    """A name in DATASETS (digits, folder), or a TFDS catalogue name."""
    path: str = ""
    """The folder of images, or the TFDS data directory; empty: TFDS's default."""
    split: str = "train"
    """The split to train on."""
    size: int = 128
    """Height and width in pixels: base * 2^k with base 4 to 7 and k >= 1."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: colour. Images are converted."""
    classes: int | None = None
    """Number of classes; 0: unconditional; None: as many as the data has."""
    batch: int = 256
    """Real images of one D update, over all devices and processes."""
    flip: bool = False
    """Mirror every image left to right with probability 1/2."""
    skip_broken: bool = False
    """Train without the images that cannot be read, instead of refusing."""
    allow_small: bool = False
    """Enlarge images that are smaller than `size`, instead of refusing."""


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """The generator: a linear layer, residual blocks that double, attention."""

    z: int = 128
    """Length of the latent vector, normally distributed."""
    width: int = 64
    """Channels of the narrowest block."""
    multipliers: tuple[int, ...] = ()
    """Channels over `width`: of the stem, then of each block. Empty: official."""
    attention: tuple[int, ...] = (32,)
    """Resolutions after whose block the slot is filled."""
    block: str = "attention"
    """What fills the slot: a name in sagan.blocks.BLOCKS."""
    sn_tables: bool = False
    """Spectral normalisation of the class-conditional batch-norm tables."""
    bn_group: int = 64
    """Images that share batch statistics; 0: the global batch."""
    bn_momentum: float = 0.999
    """What the running averages of the blocks keep at each update."""
    bn_momentum_out: float = 0.9999
    """The same, for the unconditional batch norm before the output."""
    bn_eps: float = 1e-5
    """Added to the batch variance."""


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator: residual blocks that halve, attention, projection."""

    width: int = 64
    """Channels of the narrowest block."""
    multipliers: tuple[int, ...] = ()
    """Channels of each block over `width`. Empty: official."""
    down: int | None = None
    """How many blocks halve the resolution, from the first; None: down to the base."""
    attention: tuple[int, ...] = (32,)
    """Resolutions after whose first block the slot is filled."""
    block: str = "attention"
    """What fills the slot: a name in sagan.blocks.BLOCKS."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What both networks share."""

    init: Literal["glorot_uniform", "orthogonal"] = "glorot_uniform"
    """Initialiser of every convolution, linear layer and embedding."""
    sn_eps: float = 1e-12
    """Added to the norms of the power iteration."""
    sn_detach: bool = False
    """Stop gradients at the singular vectors. The official code does not."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and convolutions; weights and statistics stay float32."""
    fast: bool = True
    """Resampling convolutions in their exact cheaper form."""
    target: Literal["auto", "cpu", "accelerator"] = "auto"
    """Devices to trace the networks for; auto: this machine's. `sagan plan` sets it."""
    remat: bool = False
    """Compute activations again for the gradient: less memory, more time."""
    attention_chunks: int = 1
    """Parts into which attention cuts its queries, one after another: less memory."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The loss and how the two players move."""

    loss: str = "hinge"
    """A name in sagan.losses.LOSSES."""
    g_lr: float = 1e-4
    """Adam's learning rate of the generator."""
    d_lr: float = 4e-4
    """Adam's learning rate of the discriminator."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Adam's moment decays. The paper's text says 0.9 for the second."""
    eps: float = 1e-8
    """Adam's epsilon."""
    decay_start: int | None = None
    """Step from which both rates fall linearly to 0 at run.steps; None: constant."""
    clip: float = 0.0
    """Global gradient norm above which a player's gradient is scaled; 0: never."""
    d_steps: int = 1
    """D updates for each G update."""
    accumulate: int = 1
    """Micro-batches into which each update's batch is cut, to save memory."""


@dataclasses.dataclass(frozen=True)
class EmaConfig:
    """Moving averages of the generator's weights and batch statistics."""

    decays: tuple[float, ...] = ()
    """What each average keeps per step. Samples use the first."""
    start: int = 0
    """Step until which the averages are copies of the weights."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How long, how often, and where things go."""

    steps: int = 1_000_000
    """Train steps: each is `optim.d_steps` D updates and one G update."""
    seed: int = 0
    """Of weights, latents, labels and the order of the data."""
    parallel: Literal["pmap", "jit"] = "pmap"
    """How the step is spread over the devices."""
    log_every: int = 100
    """Steps between two lines of metrics.jsonl."""
    sample_every: int = 1000
    """Steps between two sample grids."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    keep: int = 3
    """Newest checkpoints to keep, besides the best."""
    evaluate_every: int = 0
    """Steps between two evaluations, which decide the best checkpoint; 0: none."""
    evaluate_samples: int | None = None
    """Samples of these evaluations; None: as many as eval.py takes."""
    tensorboard: bool = True
    """Write TensorBoard event files too."""
    wandb: bool = False
    """Log to Weights & Biases too (extra `wandb`)."""
    on_divergence: Literal["warn", "rollback"] = "warn"
    """When training goes wrong: say so, or go back to the last good checkpoint."""
    watch_every: int = 500
    """Steps between two looks at what is too slow for every step."""
    rollbacks: int = 3
    """How often a run may go back before it stops."""
    rollback_factor: float = 0.5
    """What each return multiplies the discriminator's learning rate by."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache directory, for the next start."""
    coordinator: str = ""
    """HOST:PORT of process 0 of several; empty: found on Cloud TPU and SLURM."""
    processes: int | None = None
    """Number of processes that train together, each with its own devices."""
    process: int | None = None
    """Which of them this one is, from 0."""
    startup_timeout: int = 300
    """Seconds within which all processes must have met."""
    heartbeat_timeout: int = 30
    """Seconds without a sign of life after which a process counts as dead."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    data: DataConfig = DataConfig()
    g: GeneratorConfig = GeneratorConfig()
    d: DiscriminatorConfig = DiscriminatorConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    ema: EmaConfig = EmaConfig()
    run: RunConfig = RunConfig()


# A run may be resumed with other values of these: how long, how often it is told, on
# which machine, and where the same images lie.
MAY_CHANGE = frozenset(
    [
        "data.path",
        "data.skip_broken",
        "model.remat",
        "model.target",
        "model.attention_chunks",
    ]
) | {
    f"run.{field.name}"
    for field in dataclasses.fields(RunConfig)
    if field.name != "seed"
}
