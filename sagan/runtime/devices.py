"""The devices of this and other processes, and arrays spread over them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"


def in_order() -> list[Any]:
    """All devices, those of one process side by side: as the parts of a batch are."""
    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


def connect() -> None:
    """Makes all devices of several processes exchange something, for the first time.

    On CPUs Gloo connects them then, and gives up if one is 30 s late: sooner than the
    first process, say, has drawn its first pictures.
    """
    if jax.process_count() == 1:
        return
    mesh = device_mesh(in_order())
    by_device = NamedSharding(mesh, PartitionSpec(AXIS))
    ones = np.ones(jax.local_device_count(), np.float32)
    placed = jax.make_array_from_process_local_data(by_device, ones)
    everywhere = NamedSharding(mesh, PartitionSpec())
    jax.block_until_ready(jax.jit(jnp.sum, out_shardings=everywhere)(placed))


def local(state: Any) -> Any:
    """The state as arrays that this process can use without the others."""
    if jax.process_count() == 1:
        return state
    return jax.tree.map(lambda x: x.addressable_data(0), state)


def device_mesh(devices: Sequence[Any]) -> Mesh:
    """A one-dimensional mesh whose axis is that of the batch."""
    return Mesh(np.array(devices), (AXIS,))


def spread(batch: int) -> tuple[NamedSharding, NamedSharding]:
    """Shardings over the devices: by the first axis of a batch, and everywhere.

    On as many devices as divide the batch, for functions that `jax.jit` compiles.
    """
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    mesh = device_mesh(devices[:count])
    return NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(
        mesh, PartitionSpec()
    )
