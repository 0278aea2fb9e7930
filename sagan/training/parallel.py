"""How one step is spread over the devices: pmap, or jit over a mesh."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sagan.config.schema import Config
from sagan.config.validation import check_batch
from sagan.data.pipeline import Batch
from sagan.runtime.compilation import cpu_compiler_options
from sagan.runtime.devices import AXIS, device_mesh, in_order
from sagan.state import Game, GANState, abstract, make_game
from sagan.step import Metrics, train_step


class Mapped(NamedTuple):
    """A train step on several devices, and how its arguments get there.

    Attributes:
      step: (state, batch) -> (state, metrics), compiled at the first call; the state
        that goes in is gone after the call.
      place_state: puts a state on every device; may take over its buffers.
      place_batch: gives this process's devices their shares of its part of a batch.
        Of several processes each also says whether it wants to stop: the metrics of
        the step then have `stop`, more than 0 where any of them did.
      lower: (state, batch) -> the lowered step, to look at.
    """

    step: Callable[[GANState, Any], tuple[GANState, Metrics]]
    place_state: Callable[[GANState], GANState]
    place_batch: Callable[..., Any]
    lower: Callable[[GANState, Any], Any]


def map_step(config: Config, devices: Sequence[Any] | None = None) -> Mapped:
    """The train step of a config, by config.run.parallel, on all devices.

    Both ways give the same update on any number of devices.

    Raises:
      ConfigError: the batch does not divide.
    """
    devices = devices or in_order()
    check_batch(config, len(devices))
    mesh = device_mesh(devices)
    replicated = NamedSharding(mesh, PartitionSpec())
    by_image = NamedSharding(mesh, _by_image(config))
    several = jax.process_count() > 1
    body = _step_and_stop if several else train_step
    if config.run.parallel == "jit":
        game = make_game(config, sharding=NamedSharding(mesh, PartitionSpec(AXIS)))
        step = jax.jit(
            partial(body, game),
            in_shardings=(replicated, by_image),
            out_shardings=replicated,
            donate_argnums=0,
        )
    else:
        game = make_game(config, axis_name=AXIS)
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
    """[d n ...] by n under jit; [devices d n ...] under pmap."""
    return PartitionSpec(*[None] * (config.run.parallel == "jit"), AXIS)


def _step_and_stop(game: Game, state: GANState, given: Any) -> Any:
    batch, stop = given
    state, metrics = train_step(game, state, batch)
    asked = stop.max()
    if game.axis_name is not None:
        asked = jax.lax.pmax(asked, game.axis_name)
    return state, metrics | {"stop": asked}


def _by_device(x: np.ndarray, devices: int) -> np.ndarray:
    """[d n ...] -> [devices d n ...]."""
    shares = x.reshape(x.shape[0], devices, -1, *x.shape[2:])
    return np.moveaxis(shares, 1, 0)


def abstract_arguments(
    config: Config, devices: Sequence[Any]
) -> tuple[GANState, Batch]:
    """Shapes and places of the step's arguments, for `lower` on devices not here."""
    mesh = device_mesh(devices)
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
