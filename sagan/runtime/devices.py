"""The devices of this and other processes, and arrays spread over them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"


def ordered_devices() -> list[Any]:
    """All devices by process, the order in which a batch is cut into parts."""
    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


def connect() -> None:
    """Connects the devices of several processes by a first exchange.

    On CPUs Gloo connects them at the first exchange and gives up after 30 s. Later, the
    other processes might wait longer than that for process 0 to draw its first images.
    """
    if jax.process_count() == 1:
        return
    mesh = device_mesh(ordered_devices())
    by_device = NamedSharding(mesh, PartitionSpec(AXIS))
    ones = np.ones(jax.local_device_count(), np.float32)
    placed = jax.make_array_from_process_local_data(by_device, ones)
    everywhere = NamedSharding(mesh, PartitionSpec())
    jax.block_until_ready(jax.jit(jnp.sum, out_shardings=everywhere)(placed))


def local(state: Any) -> Any:
    """A copied state as arrays that this process can use without the others."""
    if jax.process_count() == 1:
        return state
    return jax.tree.map(lambda x: x.addressable_data(0), state)


def device_mesh(devices: Sequence[Any]) -> Mesh:
    """A one-dimensional mesh with the batch axis."""
    return Mesh(np.array(devices), (AXIS,))


def batch_shardings(batch: int) -> tuple[NamedSharding, NamedSharding]:
    """Shardings for `jax.jit`: split along the first axis, and replicated.

    They use as many local devices as divide the batch.
    """
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    mesh = device_mesh(devices[:count])
    split, replicated = PartitionSpec(AXIS), PartitionSpec()
    return NamedSharding(mesh, split), NamedSharding(mesh, replicated)


def padded_batches(
    compiled: Callable[..., Any], variables: Any, batch: int
) -> Callable[..., Any]:
    """A function of up to `batch` rows to compiled(variables, *rows), as NumPy arrays.

    The rows are padded to `batch`, so `compiled` is compiled once, and spread over the
    local devices. The last array tells how many rows count.
    """
    by_row, everywhere = batch_shardings(batch)
    variables = jax.device_put(variables, everywhere)

    def call(*rows: Any) -> Any:
        padded = tuple(np.resize(x, (batch, *x.shape[1:])) for x in rows)
        outputs = jax.device_get(compiled(variables, *jax.device_put(padded, by_row)))
        return jax.tree.map(lambda x: x[: len(rows[-1])], outputs)

    return call
