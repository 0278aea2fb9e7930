"""Changes of a config that make a step fit into the memory of a device."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from sagan.attention import choose_chunks
from sagan.config.fields import replace
from sagan.config.schema import Config, ConfigError
from sagan.config.validation import check_batch, check_config
from sagan.planning import topology as topology_lib
from sagan.planning.topology import Topology
from sagan.sampling.attention_maps import attention_layers


class Saving(NamedTuple):
    """A change that saves memory.

    Attributes:
      values: New values of config fields, by dotted name.
      effect: What it does, and its cost.
    """

    values: dict[str, Any]
    effect: str

    @property
    def arguments(self) -> str:
        """The change as command-line arguments."""
        return " ".join(
            f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            for name, value in self.values.items()
        )


def savings(config: Config, topology: Topology) -> list[Saving]:
    """Changes of this config that save memory, the least costly first."""
    return [
        saving
        for saving in _candidates(config, topology)
        if _is_valid(replace(config, saving.values), topology.devices)
    ]


def more_devices(config: Config, topology: Topology) -> str | None:
    """The next larger topology whose number of devices divides this batch."""
    for name in topology_lib.larger_names(topology):
        if _is_valid(config, topology_lib.parse(name).devices):
            return name
    return None


def _candidates(config: Config, topology: Topology) -> Iterator[Saving]:
    chunks = _more_chunks(config, topology)
    if chunks:
        effect = "same results; only a part of beta at a time, computed twice"
        yield Saving({"model.attention_chunks": chunks}, effect)
    if not config.model.remat:
        effect = "same results, about a third more time"
        yield Saving({"model.remat": True}, effect)
    if config.model.dtype == "float32":
        yield Saving({"model.dtype": "bfloat16"}, "activations take half the memory")
    parts = {"optim.accumulate": 2 * config.optim.accumulate}
    yield _with_groups(config, parts, topology, "same update in more parts")
    fewer = {"data.batch": config.data.batch // 2}
    yield _with_groups(config, fewer, topology, "changes the recipe")


def _more_chunks(config: Config, topology: Topology) -> int | None:
    """A number of chunks of at most 1024 queries, at least twice the present one."""
    layers = [grid for p in "gd" for grid in attention_layers(config, p).values()]
    slots = [grid.queries**2 for grid in layers]
    # D sees real and generated images at once
    images = 2 * config.data.batch // topology.devices // config.optim.accumulate
    cpu = topology.kind == "cpu"
    chosen = [
        choose_chunks(images, grid.queries**2, grid.keys**2, cpu=cpu) for grid in layers
    ]
    now = config.model.attention_chunks or max(chosen, default=1)
    wanted = max(2 * now, max(slots, default=0) // 1024)
    fitting = [n for n in (2**i for i in range(1, 11)) if math.gcd(n, *slots) == n]
    return min((n for n in fitting if n >= wanted), default=None) if slots else None


def _with_groups(
    config: Config, values: dict[str, Any], topology: Topology, effect: str
) -> Saving:
    """Adds a g.bn_group that divides a device's images, if the present one does not."""
    changed = replace(config, values)
    images = changed.data.batch // topology.devices // changed.optim.accumulate
    if images == 0 or _is_valid(changed, topology.devices):
        return Saving(values, effect)
    group = math.gcd(images, config.g.bn_group) or images
    return Saving(
        {**values, "g.bn_group": group}, f"{effect}, smaller batch-norm groups"
    )


def _is_valid(config: Config, devices: int) -> bool:
    try:
        check_config(config)
        check_batch(config, devices)
    except ConfigError:
        return False
    return True
