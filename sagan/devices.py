"""How one step is spread over the devices: pmap, or jit over a mesh."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sagan.data import Batch
from sagan.schema import Config, ConfigError
from sagan.state import GANState, abstract, make_game
from sagan.step import Metrics, train_step
from sagan.xla import cpu_compiler_options

AXIS = "batch"


class Mapped(NamedTuple):
    """A train step on several devices, and how its arguments get there.

    Attributes:
      step: (state, batch) -> (state, metrics), compiled at the first call; the state
        that goes in is gone after the call.
      place_state: puts a state on every device; may take over its buffers.
      place_batch: gives every device its share of a batch.
      lower: (state, batch) -> the lowered step, to look at.
    """

    step: Callable[[GANState, Any], tuple[GANState, Metrics]]
    place_state: Callable[[GANState], GANState]
    place_batch: Callable[[Batch], Any]
    lower: Callable[[GANState, Any], Any]


def map_step(config: Config, devices: Sequence[Any] | None = None) -> Mapped:
    """The train step of a config, by config.run.parallel, on all devices.

    Both ways give the same update on any number of devices.

    Raises:
      ConfigError: the batch does not divide.
    """
    devices = devices or jax.devices()
    check_batch(config, len(devices))
    mesh = Mesh(np.array(devices), (AXIS,))
    replicated = NamedSharding(mesh, PartitionSpec())
    place_state = partial(jax.device_put, device=replicated)
    if config.run.parallel == "jit":
        sharding = NamedSharding(mesh, PartitionSpec(AXIS))
        game = make_game(config, sharding=sharding)
        by_image = NamedSharding(mesh, PartitionSpec(None, AXIS))
        step = jax.jit(
            partial(train_step, game),
            in_shardings=(replicated, by_image),
            out_shardings=replicated,
            donate_argnums=0,
        )

        def place_whole(batch: Batch) -> Any:
            return jax.device_put(batch, by_image)

        return Mapped(_compiled_once(step), place_state, place_whole, step.lower)
    game = make_game(config, axis_name=AXIS)
    step = jax.pmap(
        partial(train_step, game),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,  # the state stays one array on all devices, without an axis
        devices=devices,
        donate_argnums=0,
    )
    by_device = NamedSharding(mesh, PartitionSpec(AXIS))

    def place_batch(batch: Batch) -> Any:
        def split(x: np.ndarray) -> np.ndarray:  # [d n ...] -> [devices d n ...]
            shares = x.reshape(x.shape[0], len(devices), -1, *x.shape[2:])
            return np.moveaxis(shares, 1, 0)

        return jax.device_put(jax.tree.map(split, batch), by_device)

    return Mapped(_compiled_once(step), place_state, place_batch, step.lower)


def abstract_arguments(
    config: Config, devices: Sequence[Any]
) -> tuple[GANState, Batch]:
    """Shapes and places of the step's arguments, for `lower` on devices not here."""
    mesh = Mesh(np.array(devices), (AXIS,))
    data, d_steps = config.data, config.optim.d_steps
    if config.run.parallel == "jit":
        lead, by_image = (d_steps, data.batch), PartitionSpec(None, AXIS)
    else:
        lead = (len(devices), d_steps, data.batch // len(devices))
        by_image = PartitionSpec(AXIS)

    def placed(shape: tuple[int, ...], dtype: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    state = jax.tree.map(
        lambda leaf: placed(leaf.shape, leaf.dtype, PartitionSpec()), abstract(config)
    )
    image = placed((*lead, data.size, data.size, data.channels), np.uint8, by_image)
    return state, Batch(image, placed(lead, np.int32, by_image))


def _compiled_once(step: Any) -> Callable[[GANState, Any], Any]:
    """The step, compiled at its first call with the options that pay here."""
    compiled = None

    def call(state: GANState, batch: Any) -> tuple[GANState, Metrics]:
        nonlocal compiled
        if compiled is None:
            options = cpu_compiler_options()
            compiled = step.lower(state, batch).compile(compiler_options=options)
        return compiled(state, batch)

    return call


def spread(batch: int) -> tuple[NamedSharding, NamedSharding]:
    """Shardings over the devices: by the first axis of a batch, and everywhere.

    On as many devices as divide the batch, for functions that `jax.jit` compiles.
    """
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    mesh = Mesh(np.array(devices[:count]), (AXIS,))
    return NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(
        mesh, PartitionSpec()
    )


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
