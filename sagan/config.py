"""Config files: load, override, check, compare, JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import pathlib
import runpy
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sagan.architecture import discriminator_blocks, generator_blocks
from sagan.schema import (
    MAY_CHANGE,
    Config,
    ConfigError,
    Data,
    Discriminator,
    Ema,
    Generator,
    Model,
    Optim,
    Run,
)

__all__ = [
    "MAY_CHANGE",
    "Config",
    "ConfigError",
    "Data",
    "Discriminator",
    "Ema",
    "Generator",
    "Model",
    "Optim",
    "Run",
    "check",
    "differences",
    "fields",
    "from_json",
    "load",
    "provenance",
    "replace",
    "to_json",
]


def fields(config: Config) -> dict[str, Any]:
    """All values by dotted name, in order of definition."""
    return {
        f"{section.name}.{field.name}": getattr(
            getattr(config, section.name), field.name
        )
        for section in dataclasses.fields(config)
        for field in dataclasses.fields(getattr(config, section.name))
    }


def replace(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy with the dotted names in `values` set (dashes count as underscores).

    Raises:
      ConfigError: a name that no section has, or a value of the wrong type.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        name = name.replace("-", "_")
        kind = field_type(name)
        section, _, field = name.partition(".")
        sections.setdefault(section, {})[field] = _coerce(name, value, kind)
    return dataclasses.replace(
        config,
        **{
            section: dataclasses.replace(getattr(config, section), **changes)
            for section, changes in sections.items()
        },
    )


def field_type(name: str) -> Any:
    """The type of a dotted name; an unknown one is a ConfigError with a suggestion."""
    known = fields(Config())
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "--help lists every field"
        raise ConfigError(f"{name}: no such field; {hint}")
    section, _, field = name.partition(".")
    section_type = get_type_hints(Config)[section]
    return get_type_hints(section_type)[field]


def _coerce(name: str, value: Any, kind: Any) -> Any:
    """`value` as the field's type: JSON and Python files write 1 for 1.0, [] for ()."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value in args:
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        variadic = args[-1] is Ellipsis
        if variadic or len(value) == len(args):
            return tuple(_coerce(name, item, args[0]) for item in value)
    elif origin is not None and type(None) in args:
        if value is None:
            return None
        return _coerce(name, value, args[0])
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind:
        return value
    allowed = getattr(kind, "__name__", "") if origin is None else str(kind)
    raise ConfigError(f"{name} = {value!r}: must be {allowed.replace('typing.', '')}")


def load(
    path: str | pathlib.Path, overrides: Mapping[str, Any] | None = None
) -> Config:
    """The checked Config of a file in `configs/`, with dotted fields replaced.

    Args:
      path: a Python file with a function `config() -> Config`.
      overrides: values by dotted name, such as {"optim.g_lr": 2e-4}.

    Raises:
      ConfigError: the file, a field or a value is wrong.
    """
    names = _run_file(path)
    with _blame(path):
        config = names["config"]()
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: config() must return a sagan.config.Config")
    config = replace(config, {**fields(config), **(overrides or {})})
    check(config)
    return config


def provenance(path: str | pathlib.Path) -> dict[str, str]:
    """Where a config file takes its deviations from the official recipe from."""
    return dict(_run_file(path).get("PROVENANCE", {}))


def _run_file(path: str | pathlib.Path) -> dict[str, Any]:
    path = pathlib.Path(path)
    if not path.is_file():
        near = sorted(str(p) for p in pathlib.Path("configs").glob("*.py"))
        known = f"; there are {', '.join(near)}" if near else ""
        raise ConfigError(f"{path}: no such config file{known}")
    with _blame(path):
        names = runpy.run_path(str(path))
    if not callable(names.get("config")):
        raise ConfigError(f"{path}: has no function config() -> Config")
    return names


@contextlib.contextmanager
def _blame(path: str | pathlib.Path) -> Iterator[None]:
    """Whatever a user's file raises becomes one line that names the file."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error


def to_json(config: Config) -> str:
    """The config as JSON, sections in order."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The inverse of to_json."""
    tree = json.loads(text)
    flat = {
        f"{section}.{field}": value
        for section, values in tree.items()
        for field, value in values.items()
    }
    return replace(Config(), flat)


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs differ, with both values."""
    other = fields(b)
    return {k: (v, other[k]) for k, v in fields(a).items() if v != other[k]}


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
