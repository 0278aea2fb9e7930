"""The allowed values of a config."""

import math
import re
from collections.abc import Iterator

from sagan.config.architecture import discriminator_blocks, generator_blocks
from sagan.config.fields import fields
from sagan.config.schema import Config, ConfigError


def is_local(path: str) -> bool:
    """Whether a path has no scheme: gs://bucket/a is not local, nor is gs:/bucket/a."""
    return not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path)


def is_bucket(path: str) -> bool:
    """Whether a path is in a bucket of Google Cloud Storage."""
    return path.startswith("gs://")


# Fields, the condition that their values must meet, and the condition in words. None
# is allowed wherever the type of the field allows it.
_RULES = (
    (
        "data.batch g.z g.width d.width optim.d_steps optim.accumulate run.steps"
        " run.log_every run.sample_every run.checkpoint_every run.keep run.watch_every"
        " run.processes run.startup_timeout run.heartbeat_timeout reg.lecam_start"
        " reg.r1_interval",
        lambda value: value >= 1,
        "at least 1",
    ),
    (
        "g.bn_group g.bn_eps model.sn_eps optim.g_lr optim.d_lr optim.clip ema.start"
        " reg.lecam reg.consistency_real reg.consistency_fake reg.r1 run.rollbacks"
        " run.peak_tflops",
        lambda value: 0 <= value < math.inf,
        "0 or more, and finite",
    ),
    (
        "run.profile",
        lambda value: re.fullmatch(r"(\d+:([1-9]\d?|100))?", value),
        "START:STEPS with at most 100 steps, such as 500:5",
    ),
    (
        "run.init_from run.local_dir",
        is_local,
        "a path on this machine, without a scheme",
    ),
    (
        "data.path run.compilation_cache_dir",
        lambda value: is_local(value) or is_bucket(value),
        "a path on this machine, or gs://BUCKET/PATH",
    ),
    # Adam divides by it: the gradients of attention are exactly 0 while gamma is
    ("optim.eps", lambda value: 0 < value < math.inf, "more than 0"),
    ("data.classes model.attention_chunks", lambda value: value >= 0, "0 or more"),
    ("run.evaluate_samples", lambda value: value >= 2, "at least 2"),
    ("run.seed", lambda value: 0 <= value < 2**32, "in [0, 2^32)"),
    ("run.rollback_factor", lambda value: 0 < value < 1, "between 0 and 1"),
    (
        "g.bn_momentum g.bn_momentum_out reg.lecam_decay",
        lambda value: 0 <= value < 1,
        "in [0, 1)",
    ),
    (
        "optim.betas ema.decays",
        lambda values: all(0 <= value < 1 for value in values),
        "numbers in [0, 1)",
    ),
    (
        "g.multipliers d.multipliers",
        lambda values: all(value >= 1 for value in values),
        "at least 1 each",
    ),
)


def check_config(config: Config) -> None:
    """Raises a ConfigError with a line for each invalid value: name and what's allowed.

    Names in tables of the code, such as losses, are checked by `state.check_names`.
    """
    found = (
        _range_problems,
        _run_problems,
        _architecture_problems,
        _regulariser_problems,
        _batch_problems,
    )
    problems = [line for problems_of in found for line in problems_of(config)]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _range_problems(config: Config) -> Iterator[str]:
    values = fields(config)
    for names, allows, allowed in _RULES:
        for name in names.split():
            value = values[name]
            if value is not None and not allows(value):
                yield f"{name} = {value!r}: must be {allowed}"


def _run_problems(config: Config) -> Iterator[str]:
    run, start = config.run, config.optim.decay_start
    if start is not None and not 0 <= start < run.steps:
        yield (f"optim.decay_start = {start}: must be in [0, run.steps = {run.steps})")
    if run.evaluate_every < 0 or run.evaluate_every % max(run.checkpoint_every, 1):
        yield (
            f"run.evaluate_every = {run.evaluate_every}: must be 0, or a multiple of"
            f" run.checkpoint_every = {run.checkpoint_every}"
        )
    given = [run.coordinator != "", run.processes is not None, run.process is not None]
    if not all(given):
        if any(given):
            yield (
                f"run.coordinator = {run.coordinator!r}, run.processes ="
                f" {run.processes}, run.process = {run.process}: give all three, or"
                " none of them on Cloud TPU and SLURM"
            )
        return
    host, _, port = run.coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        yield f"run.coordinator = {run.coordinator!r}: must be HOST:PORT"
    if not 0 <= (run.process or 0) < max(run.processes or 1, 1):
        yield f"run.process = {run.process}: must be in [0, {run.processes})"


def _architecture_problems(config: Config) -> Iterator[str]:
    for name, net, blocks_of in (
        ("g", config.g, generator_blocks),
        ("d", config.d, discriminator_blocks),
    ):
        try:
            blocks = blocks_of(config)
        except ConfigError as error:
            yield str(error)
            continue
        widths = [block.channels for block in blocks if block.slot]
        if net.block == "attention" and any(channels % 8 for channels in widths):
            yield (
                f"{name}.width = {net.width}: must give attention a multiple of 8"
                f" channels; it gives {', '.join(map(str, widths))}"
            )
        if name == "d" and not 0 <= config.d.freeze <= len(blocks):
            yield (
                f"d.freeze = {config.d.freeze}: must be 0 to {len(blocks)}, the number"
                " of the discriminator's blocks"
            )


def _regulariser_problems(config: Config) -> Iterator[str]:
    reg = config.reg
    if (reg.consistency_real or reg.consistency_fake) and not reg.consistency_policy:
        yield "reg.consistency_policy = '': must name what makes the variants for bCR"
    if config.g.sn_tables != "none" and not config.g.sn:
        yield f"g.sn_tables = {config.g.sn_tables!r}: needs g.sn, which is False"


def check_batch(config: Config, devices: int) -> None:
    """Raises a ConfigError unless micro-batches and groups divide over the devices."""
    if problems := list(_batch_problems(config, devices)):
        raise ConfigError("\n".join(problems))


def _batch_problems(config: Config, devices: int = 1) -> Iterator[str]:
    batch, parts, group = config.data.batch, config.optim.accumulate, config.g.bn_group
    if batch < 1 or parts < 1 or group < 0:
        return
    times = f"the {devices} devices times " if devices > 1 else ""
    if batch % (devices * parts):
        yield (
            f"data.batch = {batch}: must be divisible by {times}"
            f"optim.accumulate = {parts}"
        )
        return
    images = batch // devices // parts
    # without micro-batches a group may span several devices
    spans = group and parts == 1 and batch % group == 0 and group % images == 0
    if group and images % group and not spans:
        yield (
            f"g.bn_group = {group}: must divide the {images} images of a micro-batch"
            f" (data.batch = {batch} / {times}optim.accumulate = {parts})"
            + (", or be a multiple of them" if devices > 1 and parts == 1 else "")
        )
    if not group and parts > 1:
        yield (
            "g.bn_group = 0: statistics of the whole batch cannot be accumulated over"
            f" optim.accumulate = {parts} micro-batches; set it to a divisor of"
            f" {images}"
        )
