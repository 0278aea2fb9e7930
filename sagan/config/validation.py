"""Every rule that the values of a config must keep."""

import math
from collections.abc import Iterator

from sagan.config.architecture import discriminator_blocks, generator_blocks
from sagan.config.fields import fields
from sagan.config.schema import Config, ConfigError


def check(config: Config) -> None:
    """Raises one ConfigError that names every value that cannot be, and what can."""
    problems = list(dict.fromkeys(_problems(config)))
    if problems:
        raise ConfigError("\n".join(problems))


def _problems(config: Config) -> Iterator[str]:
    values = fields(config)

    def unless(ok: bool, name: str, allowed: str) -> Iterator[str]:
        if not ok:
            yield f"{name} = {values[name]!r}: must be {allowed}"

    at_least_one = ["data.batch", "g.z", "g.width", "d.width", "optim.d_steps"]
    at_least_one += ["optim.accumulate"] + [
        f"run.{name}"
        for name in ("steps", "log_every", "sample_every", "checkpoint_every", "keep")
    ]
    at_least_one += ["model.attention_chunks", "run.watch_every"]
    at_least_one += ["run.startup_timeout", "run.heartbeat_timeout"]
    for name in at_least_one:
        yield from unless(values[name] >= 1, name, "at least 1")
    at_least_zero = ["optim.g_lr", "optim.d_lr", "optim.clip", "ema.start"]
    at_least_zero += ["g.bn_group", "g.bn_eps", "model.sn_eps", "run.rollbacks"]
    for name in at_least_zero:
        ok = 0 <= values[name] < math.inf
        yield from unless(ok, name, "0 or more, and finite")
    # gradients are exactly 0 where gamma is: 0 / (0 + eps)
    yield from unless(0 < values["optim.eps"] < math.inf, "optim.eps", "more than 0")
    yield from unless(0 <= values["run.seed"] < 2**32, "run.seed", "in [0, 2^32)")
    for name in ["g.bn_momentum", "g.bn_momentum_out"]:
        yield from unless(0 <= values[name] < 1, name, "in [0, 1)")
    for name in ["optim.betas", "ema.decays"]:
        ok = all(0 <= value < 1 for value in values[name])
        yield from unless(ok, name, "numbers in [0, 1)")
    for name in ["g.multipliers", "d.multipliers"]:
        yield from unless(all(m >= 1 for m in values[name]), name, "at least 1 each")
    every, saved = config.run.evaluate_every, config.run.checkpoint_every
    ok = every >= 0 and every % max(saved, 1) == 0
    allowed = f"0, or a multiple of run.checkpoint_every = {saved}"
    yield from unless(ok, "run.evaluate_every", allowed)
    count = config.run.evaluate_samples
    yield from unless(count is None or count >= 2, "run.evaluate_samples", "at least 2")
    ok = 0 < config.run.rollback_factor < 1
    yield from unless(ok, "run.rollback_factor", "between 0 and 1")
    yield from _process_problems(config)
    classes, start = config.data.classes, config.optim.decay_start
    yield from unless(classes is None or classes >= 0, "data.classes", "0 or more")
    ok = start is None or 0 <= start < config.run.steps
    yield from unless(
        ok, "optim.decay_start", f"in [0, run.steps = {config.run.steps})"
    )
    for blocks, net in (
        (generator_blocks, config.g),
        (discriminator_blocks, config.d),
    ):
        try:
            slots = [block for block in blocks(config) if block.slot]
        except ConfigError as error:
            yield str(error)
            continue
        if net.block == "attention" and any(block.channels % 8 for block in slots):
            name = "g.width" if net is config.g else "d.width"
            yield from unless(False, name, "such that attention has 8 k channels")
    yield from _batch_problems(config)


def _batch_problems(config: Config) -> Iterator[str]:
    batch, accumulate = config.data.batch, config.optim.accumulate
    group = config.g.bn_group
    if accumulate < 1 or batch < 1 or group < 0:
        return
    if batch % accumulate:
        yield (
            f"data.batch = {batch}: must be divisible by"
            f" optim.accumulate = {accumulate}"
        )
        return
    micro = batch // accumulate
    if group and micro % group:
        yield (
            f"g.bn_group = {group}: must divide the micro-batch of {micro}"
            f" (data.batch = {batch} / optim.accumulate = {accumulate})"
        )
    if not group and accumulate > 1:
        yield (
            "g.bn_group = 0: the statistics of the global batch cannot be gathered"
            f" over optim.accumulate = {accumulate} micro-batches; set it to a divisor"
            f" of {micro}"
        )


def _process_problems(config: Config) -> Iterator[str]:
    run = config.run
    given = [run.coordinator != "", run.processes is not None, run.process is not None]
    if not any(given):
        return
    if not all(given):
        yield (
            f"run.coordinator = {run.coordinator!r}, run.processes = {run.processes},"
            f" run.process = {run.process}: give all three, or none of them on Cloud"
            " TPU and SLURM"
        )
        return
    host, _, port = run.coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        yield f"run.coordinator = {run.coordinator!r}: must be HOST:PORT"
    if run.processes is not None and run.processes < 1:
        yield f"run.processes = {run.processes}: must be at least 1"
    elif not 0 <= (run.process or 0) < (run.processes or 1):
        yield f"run.process = {run.process}: must be in [0, {run.processes})"


def check_batch(config: Config, devices: int) -> None:
    """Raises ConfigError where batch, micro-batches or groups do not divide."""
    batch, parts, group = config.data.batch, config.optim.accumulate, config.g.bn_group
    if batch % (devices * parts):
        raise ConfigError(
            f"data.batch = {batch}: must be divisible by the {devices} devices times"
            f" optim.accumulate = {parts}"
        )
    micro = batch // devices // parts
    spans = parts == 1 and group % micro == 0
    if group and micro % group and not spans:
        raise ConfigError(
            f"g.bn_group = {group}: must divide the {micro} images of a device's"
            f" micro-batch (data.batch = {batch}, {devices} devices,"
            f" optim.accumulate = {parts})"
            + ("" if parts > 1 else ", or be a multiple of them")
        )
