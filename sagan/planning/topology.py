"""Hardware that a step can be planned for: names, devices, memory."""

import importlib.util
import math
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from sagan.config.schema import ConfigError

GIB = 2**30

# Bytes of one device that a program may use, from the errors of libtpu 0.0.42. It lists
# a v4 chip as two devices with half the memory each.
HBM = {"v4": 15.25 * GIB, "v5e": 15.75 * GIB, "v5p": 95.74 * GIB, "v6e": 31.25 * GIB}
DEVICES_OF_A_CHIP = {"v4": 2}
FLAT = ("v5e", "v6e")  # chips in two dimensions; the others have three

SIDES = re.compile(r"(?<=[:x])\d+")
EXAMPLES = "v5e:1x1, v5e:2x4, v5e:4x4, v6e:2x2, v4:2x2x1, v5p:2x2x2, gpu:80GiB, cpu"


class Topology(NamedTuple):
    """Devices of one kind.

    Attributes:
      name: Name on the command line.
      kind: "tpu", "gpu" or "cpu".
      devices: Number of devices.
      memory: Bytes of each device that a program may use.
    """

    name: str
    kind: str
    devices: int
    memory: float


def parse(name: str) -> Topology:
    """The topology of a name: v5e:2x4 as in libtpu, gpu:8x80GiB, or cpu.

    Raises:
      ConfigError: The name is unknown.
    """
    if name == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Topology(name, "cpu", 1, memory)
    if gpu := re.fullmatch(r"gpu:(?:(\d+)x)?(\d+(?:\.\d+)?)GiB", name):
        count, memory = int(gpu[1] or 1), float(gpu[2]) * GIB
        if count and memory:
            return Topology(name, "gpu", count, memory)
    if tpu := re.fullmatch(r"(v\d[ep]?):(\d+x\d+(?:x\d+)?)", name):
        generation, sides = tpu[1], [int(side) for side in tpu[2].split("x")]
        if generation in HBM and _is_shape(generation, sides):
            count = math.prod(sides) * DEVICES_OF_A_CHIP.get(generation, 1)
            return Topology(name, "tpu", count, HBM[generation])
    raise ConfigError(f"--topology {name}: unknown; such as {EXAMPLES}")


def _is_shape(generation: str, sides: list[int]) -> bool:
    flat = generation in FLAT
    if len(sides) != (2 if flat else 3) or not all(1 <= side <= 16 for side in sides):
        return False
    # a host has 2x2 chips, or one
    return sides == [1, 1] or all(side % 2 == 0 for side in sides[:2])


def chips(topology: Topology) -> int:
    """Number of chips, of which some are several devices."""
    generation = topology.name.partition(":")[0]
    return topology.devices // DEVICES_OF_A_CHIP.get(generation, 1)


def larger_names(topology: Topology) -> Iterator[str]:
    """Names of topologies with twice as many devices, four times as many, and so on."""
    count, sides = topology.devices, [int(n) for n in SIDES.findall(topology.name)]
    while topology.kind == "gpu" and count < 1024:
        count *= 2
        yield f"gpu:{count}x{topology.memory / GIB:g}GiB"
    while topology.kind == "tpu" and min(sides) < 16:
        last = max(range(len(sides)), key=lambda i: (-sides[i], i))  # of the shortest
        sides[last] *= 2
        if sides != [1, 2]:
            yield topology.name.partition(":")[0] + ":" + "x".join(map(str, sides))


def set_environment(topology: Topology) -> None:
    """Sets the variables that planning needs; must come before the import of JAX."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # else libtpu asks the cloud for metadata
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # cannot load other machines' code
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # plans may overlap: nothing runs
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")  # else an error
    if topology.kind == "gpu":
        flag = f"--xla_force_host_platform_device_count={topology.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def has_compiler(topology: Topology) -> bool:
    """Whether a compiler for this topology is installed."""
    return topology.kind != "tpu" or importlib.util.find_spec("libtpu") is not None


def devices(topology: Topology) -> list[Any]:
    """Devices to compile for: those of a TPU topology, else the local CPU's.

    Raises:
      ConfigError: libtpu does not know the topology.
    """
    import jax

    if topology.kind != "tpu":
        return jax.devices("cpu")[: topology.devices]
    from jax.experimental import topologies

    one = topology.name.endswith(":1x1")
    options = {"chips_per_host_bounds": (1, 1, 1)} if one else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **options
        )
    except jax.errors.JaxRuntimeError as error:
        line = str(error).splitlines()[0]
        raise ConfigError(
            f"--topology {topology.name}: {line}; such as {EXAMPLES}"
        ) from None
    return list(found.devices)
