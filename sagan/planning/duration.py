"""Time of a step on a TPU, estimated from the program that its compiler made."""

import collections
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from sagan.config.schema import Config
from sagan.planning.program import Operation, Program
from sagan.planning.topology import Topology, chips


class Chip(NamedTuple):
    """The peak rates of a device.

    Attributes:
      flops: bfloat16 FLOPs a second.
      bandwidth: Bytes a second between the chip and its main memory.
      clock: Cycles a second of the compiler's estimates.
      link: Bytes a second that a device passes on in a ring, both ways together.
    """

    flops: float
    bandwidth: float
    clock: float
    link: float


# Peaks of cloud.google.com/tpu/docs; a device of v4 is half a chip: topology.py. Links:
# jax-ml.github.io/scaling-book, one axis. Clock: peak over the FLOPs of a cycle; large
# products then take 1.0 to 1.1 of the roofline: benchmarks/tpu_roofline.py.
CHIPS = {
    "v4": Chip(137.5e12, 614e9, 1.05e9, 90e9),
    "v5e": Chip(197e12, 819e9, 1.5e9, 90e9),
    "v5p": Chip(459e12, 2765e9, 1.75e9, 180e9),
    "v6e": Chip(918e12, 1640e9, 1.75e9, 180e9),
}
REACHED = 0.9  # of the bandwidth, by large transfers
LEAST = 0.5e-6  # seconds of an operation, however small
HOST = 4  # chips of a machine of a slice; a single one may have 1 or 8
JPEG = 1.6e-3  # CPU seconds of one: array_record in benchmarks/results/data.txt
SHOWN = 14  # layers


class Seconds(NamedTuple):
    """Three estimates of one time.

    Attributes:
      cycles: The compiler's own. About right for products, 1.2 to 4 times too long for
        the rest.
      mixed: The likely one: products by the compiler's cycles, and no faster than
        memory; the rest by the bytes that it moves.
      roofline: A lower bound: the chip's peak, or its bandwidth.
    """

    cycles: float
    mixed: float
    roofline: float

    def plus(self, other: "Seconds") -> "Seconds":
        return Seconds(*(a + b for a, b in zip(self, other, strict=True)))


NONE = Seconds(0.0, 0.0, 0.0)


def seconds(one: Operation, chip: Chip) -> Seconds:
    """How long an operation takes a step."""
    cycles = (one.cycles or 0) / chip.clock
    moving, computing = one.bytes / chip.bandwidth, one.flops / chip.flops
    mixed = max(moving / REACHED, cycles if one.flops else LEAST)
    return Seconds(
        one.times * cycles, one.times * mixed, one.times * max(moving, computing)
    )


def total(operations: Iterable[Operation], chip: Chip) -> Seconds:
    """How long operations take, one after another."""
    time = NONE
    for one in operations:
        time = time.plus(seconds(one, chip))
    return time


def grouped(
    operations: Iterable[Operation], chip: Chip, key: Callable[[str], str]
) -> dict[str, Seconds]:
    """The time by `key` of the operations' source, the longest (mixed) first."""
    groups: dict[str, Seconds] = collections.defaultdict(lambda: NONE)
    for one in operations:
        groups[key(one.source)] = groups[key(one.source)].plus(seconds(one, chip))
    return dict(sorted(groups.items(), key=lambda item: -item[1].mixed))


def layer(source: str) -> str:
    """The part of a network, as in d/attention64 or g/block1/conv1; else "rest"."""
    found = re.search(
        r"(Generator|Discriminator)\)*/([a-z]+[\d_a-z]*)(?:/(conv\d|bn\d|shortcut)\b)?",
        source,
    )
    if not found:
        return "rest"
    player, module, inner = found.groups()
    return "/".join(filter(None, (player[0].lower(), module, inner)))


def phase(source: str) -> str:
    """Update and direction, such as "D update, g forward"; else "between"."""
    update = re.search(r"\b([dg])_step\b", source)
    if not update:
        return "between"
    player = re.search("Generator|Discriminator", source)
    direction = "backward" if "transpose(" in source else "forward"
    inner = f"{player[0][0].lower()} {direction}" if player else "rest"
    return f"{update[1].upper()} update, {inner}"


def lines(
    config: Config, topology: Topology, program: Program, price: float | None = None
) -> Iterator[str]:
    """The time of a step, by layer and by phase, and what follows for a run.

    Args:
      config: The experiment's config.
      topology: A TPU topology.
      program: The step, compiled for it.
      price: Of a chip for an hour.
    """
    operations = program.operations
    if all(one.cycles is None for one in operations):
        yield "time of a step: unknown: the program has no estimated_cycles"
        return
    chip = CHIPS[topology.name.partition(":")[0]]
    together = communication(program, topology, chip)
    step = Seconds(*(s + together for s in total(operations, chip)))
    count = chips(topology)
    images = config.optim.d_steps * config.data.batch
    host = min(HOST, count)
    hours = config.run.steps / 3600

    def each(scale: Callable[[float], float]) -> str:
        low, high = sorted(map(scale, (min(step), max(step))))
        return f"{_number(low)} to {_number(high)}, likely {_number(scale(step.mixed))}"

    yield f"time of a step: {each(lambda s: 1e3 * s)} ms"
    yield (
        "  by the compiled program's roofline and cycles; within about 40 %, good for"
        " choosing between"
    )
    yield "  variants; never compared with a chip"
    if together:
        yield f"  {_number(1e3 * together)} ms of it collectives, if nothing overlaps"
    yield f"images/s: {each(lambda s: images / s)}"
    yield f"  of a chip {each(lambda s: images / s / count)}"
    if count > 1:
        yield f"  of a host of {host} {each(lambda s: host * images / s / count)}"
    cores = each(lambda s: JPEG * host * images / s / count)
    yield f"CPU cores of a host to read JPEGs of 500x375: {cores}"
    yield f"hours of {config.run.steps:,} steps: {each(lambda s: hours * s)}"
    if price is not None:
        yield (
            f"  price at {price:g} for a chip and hour:"
            f" {each(lambda s: price * count * hours * s)}"
        )
    for title, key in (("layer", layer), ("phase", phase)):
        yield f"  {f'ms by {title}':30} likely  cycles roofline"
        for name, time in list(grouped(operations, chip, key).items())[:SHOWN]:
            cycles, mixed, roofline = (1e3 * s for s in time)
            yield f"  {name:28} {mixed:8.2f}{cycles:8.2f}{roofline:9.2f}"


def communication(program: Program, topology: Topology, chip: Chip) -> float:
    """Seconds of the collectives in a ring of all devices."""
    ring = (topology.devices - 1) / topology.devices
    moved = {"all-reduce": 2.0}  # there and back
    return sum(
        moved.get(kind, 1.0) * ring * size / chip.link
        for kind, (_, size) in program.collectives.items()
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
