"""Cost of a step before it is compiled: parameters, FLOPs, bytes of the state."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jaxtyping import PyTree

from sagan.config.architecture import discriminator_blocks, generator_blocks
from sagan.config.fields import replace
from sagan.config.schema import Config
from sagan.state import GANState, abstract, count, leaf_paths, make_game
from sagan.training.parallel import abstract_arguments, map_step


class Module(NamedTuple):
    """A top-level module of a network.

    Attributes:
      player: "g" or "d".
      name: Name in the tree of parameters.
      parameters: Number of parameters.
      flops: FLOPs of its convolutions, linear layers and attention, for one image
        forward in the plain form.
    """

    player: str
    name: str
    parameters: int
    flops: int


@functools.cache
def modules(config: Config) -> tuple[Module, ...]:
    """The modules of both networks, from input to output."""
    state = abstract(config)
    rows = []
    for name, player in (("g", state.g), ("d", state.d)):
        places = dict(_resolutions(config, name))
        order = sorted(player.params, key=[*places, *player.params].index)
        for module in order:
            params = player.params[module]
            flops = _flops(params, places.get(module, 0))
            rows.append(Module(name, module, count(params), flops))
    return tuple(rows)


def _resolutions(config: Config, player: str) -> Iterator[tuple[str, int]]:
    """Resolution at which each module convolves in the plain form; linear layers: 1."""
    if player == "g":
        yield "stem", 1
        for i, block in enumerate(generator_blocks(config), start=1):
            yield f"block{i}", block.resolution
            if block.slot:
                yield f"{config.g.block}{block.resolution}", block.resolution
        yield "bn_out", 0
        yield "out", config.data.size
        return
    resolution = config.data.size
    for i, block in enumerate(discriminator_blocks(config), start=1):
        yield f"block{i}", resolution  # before it is halved
        resolution = block.resolution
        if block.slot:
            yield f"{config.d.block}{resolution}", resolution
    yield "logit", 1


def _flops(params: PyTree, resolution: int) -> int:
    """Twice the multiplications; tables, norms, biases and activations do not count."""
    kernels = {
        path: leaf.shape
        for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True)
        if path.endswith("kernel") and (len(leaf.shape) == 4 or path == "kernel")
    }
    total = 2 * sum(_products(shape, resolution) for shape in kernels.values())
    if "gamma" in params:  # every query with every pooled key and value
        keys = (resolution // 2) ** 2
        channels = kernels["f/kernel"][-1] + kernels["h/kernel"][-1]
        total += 2 * resolution**2 * keys * channels
    return total


def _products(kernel: tuple[int, ...], resolution: int) -> int:
    *window, inputs, outputs = kernel
    for side in window:  # number of products in a row of the image, without padding
        inputs *= side * resolution - side // 2 * (side // 2 + 1)
    return inputs * outputs


def formula_flops(config: Config) -> int:
    """FLOPs of a step by counting products; a backward pass costs two forward passes.

    With F_G and F_D for one image forward, each D update takes F_G to generate and
    2 * 3 F_D to learn from real and fake, and as much again for bCR's variants; the G
    update takes 3 F_G to learn and 2 F_D to pass the gradient through D. Recomputing
    activations, R1 and augmentations do not count.
    """
    g, d = _forward_flops(config)
    n, optim, reg = config.data.batch, config.optim, config.reg
    seen = 2 + bool(reg.consistency_real) + bool(reg.consistency_fake)
    return n * (optim.d_steps * (g + 3 * seen * d) + 3 * g + 2 * d)


def recomputed_flops(config: Config) -> int:
    """FLOPs that model.remat adds: a forward pass before each backward pass."""
    if not config.model.remat:
        return 0
    g, d = _forward_flops(config, leave_out=("stem", "out", "logit"))
    return config.data.batch * (config.optim.d_steps * 2 * d + g + d)


def _forward_flops(config: Config, leave_out: tuple[str, ...] = ()) -> list[int]:
    """FLOPs of G and of D for one image forward."""
    rows = [row for row in modules(config) if row.name not in leave_out]
    return [sum(row.flops for row in rows if row.player == player) for player in "gd"]


def with_target(config: Config, kind: str) -> Config:
    """The config with the networks traced for a "tpu", "gpu" or "cpu"."""
    return replace(config, {"model.target": "cpu" if kind == "cpu" else "accelerator"})


def traced_flops(config: Config, kind: str, *, fast: bool) -> float:
    """FLOPs of a step as XLA counts them in what JAX traces for a kind of device.

    Nothing is compiled. XLA counts the body of a loop once, so the step is traced
    without loops: no micro-batches, no chunks, no recomputed activations.

    Args:
      config: The experiment's config.
      kind: "tpu", "gpu" or "cpu".
      fast: Whether to count the cheaper form of the resampling convolutions.
    """
    changes = {
        "optim.accumulate": 1,
        "model.attention_chunks": 1,
        "model.remat": False,
        "model.fast": fast,
        "run.parallel": "jit",
    }
    one = jax.devices("cpu")[:1]
    game = make_game(with_target(replace(config, changes), kind))
    lowered = map_step(game, one).lower(*abstract_arguments(game, one))
    return lowered.cost_analysis()["flops"]


def state_bytes(state: GANState) -> dict[str, int]:
    """Bytes of the state on every device, by part."""
    players = (state.g, state.d)
    return {
        "parameters": _bytes([player.params for player in players]),
        "Adam's moments": _bytes([player.opt_state for player in players]),
        "averages": _bytes(state.ema),
        "statistics": _bytes([player.stats for player in players]),
    }


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
