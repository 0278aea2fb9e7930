"""Memory, FLOPs and time of a step on hardware you don't have: counted, compiled."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax

from sagan.config.fields import replace
from sagan.config.schema import Config, ConfigError
from sagan.config.validation import check_batch
from sagan.data.idx import FAMILIES
from sagan.planning import duration
from sagan.planning.memory_savings import more_devices, savings
from sagan.planning.program import Program
from sagan.planning.topology import GIB, Topology, devices, has_compiler
from sagan.runtime.compilation import cpu_compiler_options
from sagan.runtime.progress import Report
from sagan.state import abstract, make_game
from sagan.training import cost
from sagan.training.parallel import abstract_arguments, map_step

# Number of classes by the beginning of a data set's name.
CLASSES = {"digits": 10, "cifar10": 10, "imagenet": 1000, **dict.fromkeys(FAMILIES, 10)}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Compiled(NamedTuple):
    """A step compiled for a topology; sizes are bytes of one device.

    Attributes:
      needed: Memory that a run sets aside: arguments, temporaries and the program.
      peak: Memory in use at once, as XLA reports it.
      arguments: The state, whose buffers the next state reuses, and the images.
      temporaries: Everything else that the step computes.
      available: Memory of the device.
      program: The program, if it was compiled.
    """

    needed: float
    peak: float
    arguments: float
    temporaries: float
    available: float
    program: Program | None = None


def plan(
    config: Config,
    topology: Topology,
    report: Report = print,
    price: float | None = None,
) -> bool | None:
    """Reports parameters, FLOPs, bytes by counting, then memory and time by compiling.

    Args:
      config: The experiment's config.
      topology: Hardware to plan for.
      report: Takes the lines of the report.
      price: Of a chip for an hour; TPUs only.

    Returns:
      Whether the step fits; None if no compiler for this topology is installed.

    Raises:
      ConfigError: The number of classes is unknown, or the batch does not divide.
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
            "not compiled: `pip install -e '.[tpu]'` installs the compiler that reports"
            " memory and communication; it needs no TPU"
        )
        return None
    report(f"compiling the step, {_expected_time(config, topology)} on two CPU cores")
    compiled = compile_step(config, topology)
    for line in _verdict(config, topology, compiled):
        report(line)
    if topology.kind == "tpu" and compiled.program:
        for line in duration.lines(config, topology, compiled.program, price):
            report(line)
    return compiled.needed <= compiled.available


def with_classes(config: Config) -> Config:
    """The config with data.classes filled in by the data set's name, not its files.

    Raises:
      ConfigError: data.classes is None and the name does not say.
    """
    if config.data.classes is not None:
        return config
    for name, classes in CLASSES.items():
        if config.data.name.startswith(name):
            return replace(config, {"data.classes": classes})
    raise ConfigError(
        f"data.classes = None: unknown for the data set {config.data.name!r};"
        " give --data.classes N"
    )


def _counted(config: Config, topology: Topology) -> Iterator[str]:
    yield "parameters, and GFLOPs of one image forward:"
    for player in "gd":
        rows = [row for row in cost.modules(config) if row.player == player]
        _, _, parameters, flops = zip(*rows, strict=True)
        for row in [*rows, cost.Module(player, "", sum(parameters), sum(flops))]:
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
        yield f"  {fast:.3e} by XLA as it runs: cheaper resampling convolutions"
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
    """Compiles the whole step ahead of time, for the devices of the topology.

    The step for a GPU is traced as on a GPU, but compiled for CPU devices: an estimate.

    Raises:
      ConfigError: The compiler does not know the topology.
    """
    there = devices(topology)
    game = make_game(cost.with_target(config, topology.kind))
    lowered = map_step(game, there).lower(*abstract_arguments(game, there))
    options = {} if topology.kind == "tpu" else cpu_compiler_options(of_step=True)
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed, available = out_of_memory(str(error)) or (math.inf, topology.memory)
        return Compiled(needed, math.nan, math.nan, math.nan, available)
    sizes = compiled.memory_analysis()
    new = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    held = sizes.argument_size_in_bytes
    temporaries = sizes.temp_size_in_bytes + new
    return Compiled(
        needed=held + temporaries + sizes.generated_code_size_in_bytes,
        peak=sizes.peak_memory_in_bytes,
        arguments=held,
        temporaries=temporaries,
        available=topology.memory,
        program=Program(compiled.as_text() or ""),
    )


def out_of_memory(message: str) -> tuple[float, float] | None:
    """Bytes needed and available, as XLA for TPUs reports them when memory is short."""
    number = r"(\d+(?:\.\d+)?)([KMGT]?)"
    for pattern in (
        rf"\({number}\) exceeds available HBM \({number}\)",
        rf"Used {number} of {number} hbm",
    ):
        if found := re.search(pattern, message):
            needed, k, available, m = found.groups()
            return float(needed) * UNITS[k], float(available) * UNITS[m]
    return None


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
    several = topology.devices > 1 and compiled.program
    for kind, (count, size) in several.collectives.items() if several else ():
        yield f"  {count} {kind}{'s' * (count > 1)}, {_gib(size)} in all"
    if not fits:
        yield "to need less memory, in this order:"
        for saving in savings(config, topology):
            yield f"  {saving.arguments}: {saving.effect}"
        if larger := more_devices(config, topology):
            yield f"  --topology {larger}: fewer images on each device"


def _gib(size: float | int) -> str:
    if size < 0.1 * GIB:
        return f"{size / 2**20:.3g} MiB"
    return f"{size / GIB:.4g} GiB"
