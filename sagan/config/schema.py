"""The fields of an experiment, their defaults and their --help.

The defaults are the official recipe: the released TF1 code of Zhang et al. 2019
(brain-research/self-attention-gan) for ImageNet at 128x128 with attention at 32x32. A
file in `configs/` sets only what it changes.
"""

import dataclasses
from typing import Literal


class ConfigError(ValueError):
    """A user's mistake. The message says all that the user needs to know."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images and the batch size."""

    name: str = "imagenet2012"
    """Data set: digits, folder, or a name in the TFDS catalogue."""
    path: str = ""
    """Folder of images, prepared set, or TFDS data directory; empty: TFDS's default."""
    split: str = "train"
    """Split to train on; of IDX and TFDS data also its start, such as train[:500]."""
    size: int = 128
    """Height and width in pixels: base * 2^k with base 4 to 7 and k >= 1."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: colour. Images are converted."""
    classes: int | None = None
    """Number of classes; 0: unconditional; None: as many as the data has."""
    batch: int = 256
    """Real images in a D update, over all devices and processes."""
    flip: bool = False
    """Mirror each image left to right with probability 1/2."""
    skip_broken: bool = False
    """Skip images that cannot be read, instead of stopping with an error."""
    allow_small: bool = False
    """Enlarge images that are smaller than `size`, instead of stopping."""


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """The generator: a linear layer, then residual blocks that double the size."""

    z: int = 128
    """Length of the latent vector, which is normally distributed."""
    width: int = 64
    """Channels of the narrowest block."""
    multipliers: tuple[int, ...] = ()
    """Channels / `width` of the linear layer and of each block. Empty: official."""
    attention: tuple[int, ...] = (32,)
    """Resolutions after whose block an extra `block` is inserted. If no block ends at
    the default: about data.size / 4, which is official."""
    block: str = "attention"
    """The inserted block: attention, residual or none (sagan.blocks.BLOCKS)."""
    sn: bool = True
    """Spectral normalisation of the convolutions and linear layers."""
    sn_tables: Literal["none", "channels", "classes"] = "none"
    """Spectral normalisation of the class-conditional batch-norm tables, and what u has
    one entry for: channels (StudioGAN) or classes (MMGeneration's option)."""
    bn_group: int = 64
    """Images that share batch-norm statistics; 0: the whole batch."""
    bn_momentum: float = 0.999
    """Decay of the running batch-norm averages in the blocks, per update."""
    bn_momentum_out: float = 0.9999
    """Decay of those in the unconditional batch norm before the output."""
    bn_eps: float = 1e-5
    """Added to the batch variance."""
    bn_unbiased: bool = False
    """Running variances of n numbers are divided by n - 1, as in PyTorch, not by n."""


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator: residual blocks that halve the size, then a projection."""

    width: int = 64
    """Channels of the narrowest block."""
    multipliers: tuple[int, ...] = ()
    """Channels / `width` of each block. Empty: official."""
    down: int | None = None
    """Number of blocks, from the first, that halve the size; None: down to the base."""
    attention: tuple[int, ...] = (32,)
    """Resolutions after whose first block an extra `block` is inserted, as for G."""
    block: str = "attention"
    """The inserted block: attention, residual or none (sagan.blocks.BLOCKS)."""
    sn: bool = True
    """Spectral normalisation of the convolutions, linear layers and embedding."""
    rectified_shortcut: bool = False
    """A block's shortcut starts from relu(x), as an in-place ReLU has it (StudioGAN,
    mimicry; MMGeneration's wReLUinplace), not from x."""
    freeze: int = 0
    """Number of blocks, from the first, whose weights stay as they are (FreezeD)."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Settings of both networks."""

    init: Literal["glorot_uniform", "orthogonal"] = "glorot_uniform"
    """Initialiser of all convolutions, linear layers and embeddings."""
    sn_eps: float = 1e-12
    """Added to the norms in the power iteration of spectral normalisation."""
    sn_clamp: bool = False
    """Norms below sn_eps count as sn_eps, as in PyTorch; nothing is added."""
    sn_detach: bool = False
    """Stop gradients at the singular vectors. The official code does not."""
    sn_eval: Literal["iterate", "stored"] = "iterate"
    """sigma in evaluation, from the stored u: iterate: after one more power iteration
    (official, StudioGAN, BigGAN-PyTorch); stored: with the last training pass's u and v
    (PyTorch's eval(): MMGeneration, mimicry)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and convolutions; weights and statistics stay float32."""
    fast: bool = True
    """Cheaper forms of the resampling convolutions, equal up to rounding."""
    target: Literal["auto", "cpu", "accelerator"] = "auto"
    """Devices to trace the networks for; auto: this machine's. `sagan plan` sets it."""
    remat: bool = False
    """Recompute activations for the gradient: less memory, more time."""
    attention_chunks: int = 0
    """Chunks of queries that attention processes in turn: less memory; 0: choose."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The loss, Adam, and the number of updates."""

    loss: str = "hinge"
    """Name of the loss, a key of sagan.losses.LOSSES."""
    g_lr: float = 1e-4
    """Adam's learning rate of the generator."""
    d_lr: float = 4e-4
    """Adam's learning rate of the discriminator."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Adam's moment decays. The second is 0.9 in the paper's text."""
    eps: float = 1e-8
    """Adam's epsilon."""
    decay_start: int | None = None
    """Step from which both rates fall linearly to 0 at run.steps; None: constant."""
    clip: float = 0.0
    """Largest global gradient norm of a network; 0: no clipping."""
    d_steps: int = 1
    """D updates for each G update."""
    accumulate: int = 1
    """Micro-batches for each update: less memory, more time."""


@dataclasses.dataclass(frozen=True)
class RuleConfig:
    """Which pass of an update moves which statistics; see sagan/step.py."""

    d_passes: Literal["together", "apart"] = "together"
    """Real and fake images in D's update: together: u moves once (official, and
    BigGAN-PyTorch); apart: passes in turn, each moves u (StudioGAN, MMGeneration)."""
    g_step_moves_d: bool = False
    """G's update moves D's u too (all in PyTorch that do not freeze it)."""
    d_step_moves_averages: bool = True
    """D's update moves G's running averages. StudioGAN's does not."""
    sequential_micro_batches: bool = False
    """A micro-batch starts from the statistics that the one before has moved
    (BigGAN-PyTorch); else the update is that of the whole batch."""


@dataclasses.dataclass(frozen=True)
class EmaConfig:
    """Moving averages of the generator's weights and batch statistics."""

    decays: tuple[float, ...] = ()
    """Decay of each average, per step. Samples use the first."""
    start: int = 0
    """Step until which the averages are copies of the weights."""


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of all images that the discriminator sees (DiffAugment)."""

    policy: str = ""
    """Any of color, translation and cutout, by commas; empty: no augmentation."""


@dataclasses.dataclass(frozen=True)
class RegConfig:
    """Regularisers of the discriminator's loss; a weight of 0 switches one off."""

    lecam: float = 0.0
    """Weight of LeCam: keeps logits near moving averages of the other side's."""
    lecam_decay: float = 0.99
    """Decay of these averages, per D update."""
    lecam_start: int = 1000
    """Step from which LeCam acts; until then the averages are copies."""
    consistency_real: float = 0.0
    """Weight of consistency (bCR): equal logits for a real image and its variant."""
    consistency_fake: float = 0.0
    """The same for generated images."""
    consistency_policy: str = "translation"
    """Augmentation that makes the variants, as in `augment.policy`."""
    r1: float = 0.0
    """Weight of R1: half the squared gradient of D at the real images."""
    r1_interval: int = 1
    """R1 is applied every so many steps, with its weight multiplied by this number."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Length of the run, intervals, logging, recovery and processes."""

    steps: int = 1_000_000
    """Train steps: each is `optim.d_steps` D updates and one G update."""
    seed: int = 0
    """Seed of weights, latents, labels and the order of the data."""
    init_from: str = ""
    """WORKDIR[:STEP] of a run to start from: takes the weights that fit."""
    init_digest: str = ""
    """SHA-256 of these weights; filled in by the start, and checked if given."""
    parallel: Literal["pmap", "jit"] = "pmap"
    """How the step is distributed over the devices; both give the same update."""
    log_every: int = 100
    """Steps between lines of metrics.jsonl."""
    sample_every: int = 1000
    """Steps between sample grids."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 3
    """Number of newest checkpoints to keep, besides the best. If the run was stopped:
    also so many of those at multiples of run.checkpoint_every."""
    evaluate_every: int = 0
    """Steps between evaluations, which decide the best checkpoint; 0: none."""
    evaluate_samples: int | None = None
    """Samples in these evaluations; None: the default of `sagan eval`."""
    tensorboard: bool = True
    """Also write TensorBoard event files."""
    wandb: bool = False
    """Also log to Weights & Biases (extra `wandb`)."""
    on_divergence: Literal["warn", "rollback"] = "warn"
    """If training diverges: report it, or restore the last good checkpoint too."""
    watch_every: int = 500
    """Steps between checks that are too slow for every step."""
    rollbacks: int = 3
    """Number of rollbacks after which a diverging run stops."""
    rollback_factor: float = 0.5
    """Factor of the discriminator's learning rate at each rollback."""
    local_dir: str = ""
    """Folder for local copies of what is in buckets; empty: in the cache directory."""
    peak_tflops: float = 0.0
    """TFLOP/s that one device could do, to log the share of it; 0: if it is known."""
    profile: str = ""
    """START:STEPS, of which to write a trace: STEPS steps (at most 100) after START."""
    compilation_cache: bool = True
    """Keep compiled programs for the next start."""
    compilation_cache_dir: str = ""
    """Where: a folder, or gs://BUCKET/PATH; empty: in the user's cache directory."""
    coordinator: str = ""
    """HOST:PORT of process 0, if there are several; not needed on TPU or SLURM."""
    processes: int | None = None
    """Number of processes that train together, each with its own devices."""
    process: int | None = None
    """Index of this process, from 0."""
    startup_timeout: int = 300
    """Seconds to wait at the start until all processes are connected."""
    heartbeat_timeout: int = 30
    """Seconds without a sign of life after which a process counts as dead."""


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment."""

    data: DataConfig = DataConfig()
    g: GeneratorConfig = GeneratorConfig()
    d: DiscriminatorConfig = DiscriminatorConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    rule: RuleConfig = RuleConfig()
    ema: EmaConfig = EmaConfig()
    augment: AugmentConfig = AugmentConfig()
    reg: RegConfig = RegConfig()
    run: RunConfig = RunConfig()


# Fields that may change when a run is resumed: length, intervals, machine, and where
# the same images are.
MAY_CHANGE = frozenset(
    "data.path data.skip_broken model.remat model.target model.attention_chunks".split()
) | {f"run.{field.name}" for field in dataclasses.fields(RunConfig)} - {
    *("run.seed", "run.init_from", "run.init_digest")
}
