"""How one step is spread over the devices: pmap, or jit over a mesh."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sagan.config.schema import Config
from sagan.data.pipeline import Batch
from sagan.diagnostics import Metrics
from sagan.runtime.compilation import cpu_compiler_options
from sagan.runtime.devices import AXIS, device_mesh, ordered_devices
from sagan.runtime.memory import keep_freed_memory
from sagan.state import Game, GANState, abstract_state
from sagan.step import train_step


class Mapped(NamedTuple):
    """A train step on several devices, and how its arguments get there.

    Attributes:
      step: (state, batch) -> (state, metrics), compiled at the first call. The state
        that goes in is donated.
      place_state: Puts a state on every device; may take over its buffers.
      place_batch: Gives this process's devices their shares of its part of a batch.
        With several processes each also says whether it wants to stop: the step's
        metrics then have `stop`, more than 0 if any of them does.
      lower: (state, batch) -> the lowered step, for inspection.
    """

    step: Callable[[GANState, Any], tuple[GANState, Metrics]]
    place_state: Callable[[GANState], GANState]
    place_batch: Callable[..., Any]
    lower: Callable[[GANState, Any], Any]


def map_step(game: Game, devices: Sequence[Any] | None = None) -> Mapped:
    """Spreads the train step over devices (all of them), as config.run.parallel says.

    Both ways give the same update on any number of devices. The batch must divide: see
    config.validation.check_batch.
    """
    config, devices = game.config, devices or ordered_devices()
    mesh = device_mesh(devices)
    replicated = NamedSharding(mesh, PartitionSpec())
    by_image = NamedSharding(mesh, _by_image(config))
    several = jax.process_count() > 1
    body = _step_and_stop if several else train_step
    if config.run.parallel == "jit":
        game = game._replace(sharding=NamedSharding(mesh, PartitionSpec(AXIS)))
        step = jax.jit(
            partial(body, game),
            in_shardings=(replicated, by_image),
            out_shardings=replicated,
            donate_argnums=0,
        )
    else:
        game = game._replace(g=game.g.clone(axis_name=AXIS), axis_name=AXIS)
        step = jax.pmap(
            partial(body, game),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=None,  # the state stays one array on all devices, without an axis
            devices=devices,
            donate_argnums=0,
        )
    here = sum(device.process_index == jax.process_index() for device in devices)

    def place_batch(batch: Batch, stop: bool = False) -> Any:
        given = (batch, np.full((1, here), stop, np.float32)) if several else batch
        if config.run.parallel == "pmap":
            given = jax.tree.map(partial(_by_device, devices=here), given)
        if several:
            place = partial(jax.make_array_from_process_local_data, by_image)
            return jax.tree.map(place, given)
        return jax.device_put(given, by_image)

    def place_state(state: GANState) -> GANState:
        if not several:
            return jax.device_put(state, replicated)
        # else JAX first compares the values of all processes
        whole = partial(jax.make_array_from_process_local_data, replicated)
        return jax.tree.map(whole, jax.device_get(state))

    return Mapped(_compiled_once(step), place_state, place_batch, step.lower)


def _by_image(config: Config) -> PartitionSpec:
    """Axis n of [d n ...] under jit; the first of [devices d n ...] under pmap."""
    return PartitionSpec(*[None] * (config.run.parallel == "jit"), AXIS)


def _step_and_stop(game: Game, state: GANState, given: Any) -> Any:
    batch, stop = given
    state, metrics = train_step(game, state, batch)
    stop = stop.max()
    if game.axis_name is not None:
        stop = jax.lax.pmax(stop, game.axis_name)
    return state, metrics | {"stop": stop}


def _by_device(x: np.ndarray, devices: int) -> np.ndarray:
    """[d n ...] -> [devices d n ...]."""
    shares = x.reshape(x.shape[0], devices, -1, *x.shape[2:])
    return np.moveaxis(shares, 1, 0)


def abstract_arguments(game: Game, devices: Sequence[Any]) -> tuple[GANState, Batch]:
    """Shapes and shardings of the step's arguments, for `lower` on absent devices."""
    config, mesh = game.config, device_mesh(devices)
    data, d_steps = config.data, config.optim.d_steps
    if config.run.parallel == "jit":
        lead = (d_steps, data.batch)
    else:
        lead = (len(devices), d_steps, data.batch // len(devices))
    by_image = _by_image(config)

    def placed(shape: tuple[int, ...], dtype: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    state = jax.tree.map(
        lambda leaf: placed(leaf.shape, leaf.dtype, PartitionSpec()),
        abstract_state(game),
    )
    image = placed((*lead, data.size, data.size, data.channels), np.uint8, by_image)
    return state, Batch(image, placed(lead, np.int32, by_image))


def _compiled_once(step: Any) -> Callable[[GANState, Any], Any]:
    """Compiles the step at its first call, with options measured for this backend."""
    compiled = None

    def call(state: GANState, batch: Any) -> tuple[GANState, Metrics]:
        nonlocal compiled
        if compiled is None:
            options = cpu_compiler_options(of_step=True)
            compiled = step.lower(state, batch).compile(compiler_options=options)
            keep_freed_memory()
        return compiled(state, batch)

    return call
