"""What to change where a step does not fit into a device's memory."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from sagan.config.architecture import discriminator_blocks, generator_blocks
from sagan.config.fields import replace
from sagan.config.schema import Config, ConfigError
from sagan.config.validation import check_batch, check_config
from sagan.planning.topology import Topology, larger, parse


class Advice(NamedTuple):
    """One thing to change.

    Attributes:
      values: of config fields, by dotted name.
      why: and what it costs.
    """

    values: dict[str, Any]
    why: str

    @property
    def arguments(self) -> str:
        """As on the command line."""
        return " ".join(
            f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            for name, value in self.values.items()
        )


def advice(config: Config, topology: Topology) -> list[Advice]:
    """What saves memory and can be done here, the least costly first."""
    return [
        one
        for one in _possible(config, topology)
        if _is_right(replace(config, one.values), topology.devices)
    ]


def more_devices(config: Config, topology: Topology) -> str | None:
    """The next larger topology over which this batch divides."""
    for name in larger(topology):
        if _is_right(config, parse(name).devices):
            return name
    return None


def _possible(config: Config, topology: Topology) -> Iterator[Advice]:
    chunks = _more_chunks(config)
    if chunks:
        why = "the same numbers; beta is never whole, and computed twice"
        yield Advice({"model.attention_chunks": chunks}, why)
    if not config.model.remat:
        why = "the same numbers, in about a third more time"
        yield Advice({"model.remat": True}, why)
    if config.model.dtype == "float32":
        yield Advice({"model.dtype": "bfloat16"}, "activations of half the size")
    parts = {"optim.accumulate": 2 * config.optim.accumulate}
    yield _with_groups(config, parts, topology, "the same update in more parts")
    fewer = {"data.batch": config.data.batch // 2}
    yield _with_groups(config, fewer, topology, "another recipe")


def _more_chunks(config: Config) -> int | None:
    """A number that cuts every attention map into at most 1024 queries, or halves."""
    slots = [
        block.resolution**2
        for net, blocks in (
            (config.g, generator_blocks(config)),
            (config.d, discriminator_blocks(config)),
        )
        for block in blocks
        if block.slot and net.block == "attention"
    ]
    now = config.model.attention_chunks
    wanted = max(2 * now, max(slots, default=0) // 1024)
    fitting = [n for n in (2**i for i in range(1, 11)) if math.gcd(n, *slots) == n]
    return min((n for n in fitting if n >= wanted), default=None) if slots else None


def _with_groups(
    config: Config, values: dict[str, Any], topology: Topology, why: str
) -> Advice:
    """With the batch-norm groups that fit a device's images, if they must change."""
    changed = replace(config, values)
    images = changed.data.batch // topology.devices // changed.optim.accumulate
    if images == 0 or _is_right(changed, topology.devices):
        return Advice(values, why)
    group = math.gcd(images, config.g.bn_group) or images
    return Advice({**values, "g.bn_group": group}, f"{why}, but smaller batch norms")


def _is_right(config: Config, devices: int) -> bool:
    try:
        check_config(config)
        check_batch(config, devices)
    except ConfigError:
        return False
    return True
