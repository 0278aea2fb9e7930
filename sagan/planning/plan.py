"""What a step takes on a machine that need not be here: counted, then compiled."""

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from sagan.config.fields import replace
from sagan.config.schema import Config, ConfigError
from sagan.config.validation import check_batch
from sagan.planning import cost
from sagan.planning.advice import advice, more_devices
from sagan.planning.topology import GIB, Topology, devices, has_compiler
from sagan.runtime.compilation import cpu_compiler_options
from sagan.state import abstract, make_game
from sagan.training.parallel import abstract_arguments, map_step

# of data sets by the beginning of their names: their images stay closed
CLASSES = {"digits": 10, "cifar10": 10, "imagenet": 1000}
COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
WIDTHS = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "u8": 1, "pred": 1}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
Report = Callable[[str], None]


class Compiled(NamedTuple):
    """A step compiled for a topology: bytes of one device.

    Attributes:
      needed: what a run sets aside: arguments, temporaries and the program.
      peak: what of it is in use at once, by XLA's account.
      arguments: the state, which the next one replaces, and the share of the batch.
      temporaries: everything else that the step computes.
      available: what there is.
      collectives: how many of each kind, and the bytes of their results.
    """

    needed: float
    peak: float
    arguments: float
    temporaries: float
    available: float
    collectives: dict[str, tuple[int, int]]


def plan(config: Config, topology: Topology, report: Report = print) -> bool | None:
    """Tells what a step takes: first what counting shows, then what compiling does.

    Returns:
      Whether it fits; None where nothing can compile for this topology.

    Raises:
      ConfigError: the number of classes is not known, or the batch does not divide.
    """
    config = with_classes(config)
    check_batch(config, topology.devices)
    share = config.data.batch // topology.devices // config.optim.accumulate
    report(
        f"{topology.name}: devices {topology.devices}, each with"
        f" {_gib(topology.memory)}; images {config.data.batch}, at once on a device"
        f" {share}"
    )
    for line in _counted(config, topology):
        report(line)
    if not has_compiler(topology):
        report(
            "not compiled: `pip install -e '.[tpu]'` gives the rest, memory and"
            " communication, without a TPU"
        )
        return None
    report(f"compiling the step, {_expected_time(config, topology)} on two CPU cores")
    compiled = compile_step(config, topology)
    for line in _verdict(config, topology, compiled):
        report(line)
    return compiled.needed <= compiled.available


def with_classes(config: Config) -> Config:
    """The config with a number of classes, found without a look at the data.

    Raises:
      ConfigError: data.classes is None and the data set's name does not tell.
    """
    if config.data.classes is not None:
        return config
    for name, classes in CLASSES.items():
        if config.data.name.startswith(name):
            return replace(config, {"data.classes": classes})
    raise ConfigError(
        f"data.classes = None: the name {config.data.name!r} does not tell how many;"
        " give --data.classes N"
    )


def _counted(config: Config, topology: Topology) -> Iterator[str]:
    yield "parameters, and GFLOPs of one image forward:"
    rows = cost.modules(config)
    for player in "gd":
        mine = [row for row in rows if row.player == player]
        total = sum(row.parameters for row in mine)
        flops = sum(row.flops for row in mine)
        for row in [*mine, cost.Module(player, "", total, flops)]:
            name = f"{row.player}/{row.name}".strip("/")
            yield f"  {name:16}{row.parameters:12,}{row.flops / 1e9:10.4g}"
    formula, again = cost.formula_flops(config), cost.recomputed_flops(config)
    plain = cost.traced_flops(config, topology.kind, fast=False)
    yield f"FLOPs of a step, {config.data.batch} images, forward and backward:"
    yield f"  {formula:.3e} by formula: convolutions, linear layers, attention"
    ratio = f"{plain / formula:.2f} of the formula"
    yield f"  {plain:.3e} by XLA in the plain form, {ratio}"
    if config.model.fast:
        fast = cost.traced_flops(config, topology.kind, fast=True)
        yield f"  {fast:.3e} by XLA as it runs: resampling convolutions are cheaper"
    if again:
        yield f"  {again:.3e} more by formula, for model.remat"
    parts = cost.state_bytes(abstract(config))
    yield f"state on every device: {_gib(sum(parts.values()))}"
    yield "  " + ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())


def _expected_time(config: Config, topology: Topology) -> str:
    if topology.kind != "tpu":
        return "less than two minutes"
    # measured: 2 minutes at 32 px, 5 to 11 at 128 px, 14 at 256 px; see
    # benchmarks/results/plan128.txt and plan256.txt
    least = (30 + 3 * config.data.size) / 60
    return f"about {least:.0f} to {1.6 * least:.0f} minutes"


def compile_step(config: Config, topology: Topology) -> Compiled:
    """The whole step as it would run there, compiled ahead of time.

    For a GPU the program is one for a GPU but compiled for the CPU: an estimate.

    Raises:
      ConfigError: the topology or the batch is wrong.
    """
    there = devices(topology)
    target = "cpu" if topology.kind == "cpu" else "accelerator"
    game = make_game(replace(config, {"model.target": target}))
    lowered = map_step(game, there).lower(*abstract_arguments(game, there))
    options = {} if topology.kind == "tpu" else cpu_compiler_options()
    try:
        with _no_cache():
            compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed, available = out_of_memory(str(error)) or (math.inf, topology.memory)
        return Compiled(needed, math.nan, math.nan, math.nan, available, {})
    sizes = compiled.memory_analysis()
    new = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    held = sizes.argument_size_in_bytes
    temporaries = sizes.temp_size_in_bytes + new
    program, text = sizes.generated_code_size_in_bytes, compiled.as_text() or ""
    return Compiled(
        needed=held + temporaries + program,
        peak=sizes.peak_memory_in_bytes,
        arguments=held,
        temporaries=temporaries,
        available=topology.memory,
        collectives=collectives(text) if topology.devices > 1 else {},
    )


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """Programs for another machine can be put into JAX's cache but not read from it."""
    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    jax.config.update(name, False)
    try:
        yield
    finally:
        jax.config.update(name, before)


def out_of_memory(message: str) -> tuple[float, float] | None:
    """Bytes needed and available, of what XLA for TPUs says when they do not match."""
    number = r"(\d+(?:\.\d+)?)([KMGT]?)"
    for said in (
        rf"\({number}\) exceeds available HBM \({number}\)",
        rf"Used {number} of {number} hbm",
    ):
        if found := re.search(said, message):
            needed, k, available, m = found.groups()
            return float(needed) * UNITS[k], float(available) * UNITS[m]
    return None


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """How many collectives of each kind a compiled program has, and their bytes."""
    found: dict[str, tuple[int, int]] = {}
    for shape, kind in re.findall(rf"= (\S.*?) ({COLLECTIVES})(?:-start)?\(", program):
        size = sum(
            math.prod(map(int, filter(None, sides.split(",")))) * WIDTHS[dtype]
            for dtype, sides in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
            if dtype in WIDTHS
        )
        count, total = found.get(kind, (0, 0))
        found[kind] = count + 1, total + size
    return found


def _verdict(config: Config, topology: Topology, compiled: Compiled) -> Iterator[str]:
    needed, available = compiled.needed, compiled.available
    fits = needed <= available
    kind = " (an estimate: compiled for the CPU)" if topology.kind == "gpu" else ""
    much = "more than there is" if math.isinf(needed) else _gib(needed)
    yield (
        f"memory of a device: {much} of {_gib(available)}{kind}:"
        f" {'fits' if fits else 'does not fit'}"
    )
    if math.isfinite(compiled.arguments):
        yield (
            f"  state and images {_gib(compiled.arguments)}, temporaries"
            f" {_gib(compiled.temporaries)}, the rest the program; in use at once"
            f" {_gib(compiled.peak)}"
        )
        yield from _communication(compiled.collectives)
    if not fits:
        yield "to need less, in this order:"
        for one in advice(config, topology):
            yield f"  {one.arguments}: {one.why}"
        if larger := more_devices(config, topology):
            yield f"  --topology {larger}: fewer images on each device"


def _communication(collectives: dict[str, tuple[int, int]]) -> Iterator[str]:
    for kind, (count, size) in collectives.items():
        yield f"  {count} {kind}{'s' * (count > 1)}, {_gib(size)} in all"


def _gib(size: float | int) -> str:
    if size < 0.1 * GIB:
        return f"{size / 2**20:.3g} MiB"
    return f"{size / GIB:.4g} GiB"
