"""What a step costs, known before it is compiled: parameters, FLOPs, bytes of state."""

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
      name: in the tree of parameters.
      parameters: how many.
      flops: of one image's way through its convolutions, linear layers and attention.
    """

    player: str
    name: str
    parameters: int
    flops: int


@functools.cache
def modules(config: Config) -> tuple[Module, ...]:
    """The modules of both networks, from the input to the output."""
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
    """Where the plain form of each module convolves: at 1x1, it is a linear layer."""
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
    """Twice the multiplications of a module that sees one image in its plain form.

    Tables, norms, biases and activations do not count.
    """
    kernels = {
        path: leaf.shape
        for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True)
        if path.endswith("kernel") and (len(leaf.shape) == 4 or path == "kernel")
    }
    total = 2 * sum(_products(shape, resolution) for shape in kernels.values())
    if "gamma" in params:  # every query with every pooled key, and value
        keys = (resolution // 2) ** 2
        channels = kernels["f/kernel"][-1] + kernels["h/kernel"][-1]
        total += 2 * resolution**2 * keys * channels
    return total


def _products(kernel: tuple[int, ...], resolution: int) -> int:
    *window, inputs, outputs = kernel
    for width in window:  # a row of the image has so many products, without padding
        inputs *= width * resolution - width // 2 * (width // 2 + 1)
    return inputs * outputs


def formula_flops(config: Config) -> int:
    """FLOPs of a step by counting products: forward 1, backward 2 of the same size.

    For each D update, G draws (1 F_G an image) and D sees real and fake and learns
    (2 * 3 F_D). In G's update G learns (3 F_G) and D passes the gradient on (2 F_D).
    What is computed again for memory does not count.
    """
    g, d = (
        sum(row.flops for row in modules(config) if row.player == player)
        for player in "gd"
    )
    n, d_steps = config.data.batch, config.optim.d_steps
    return n * (d_steps * (g + 6 * d) + 3 * g + 2 * d)


def recomputed_flops(config: Config) -> int:
    """What model.remat adds to `formula_flops`: a forward pass before each backward."""
    if not config.model.remat:
        return 0
    g, d = (
        sum(
            row.flops
            for row in modules(config)
            if row.player == player and row.name not in ("stem", "out", "logit")
        )
        for player in "gd"
    )
    return config.data.batch * (config.optim.d_steps * 2 * d + g + d)


def traced_flops(config: Config, kind: str, *, fast: bool) -> float:
    """FLOPs of a step as XLA counts them in what JAX traces for this kind of device.

    Nothing is compiled, and nothing is in a loop, where XLA would count it once: the
    batch is not cut, and what is computed again for memory does not count.

    Args:
      config: of the experiment.
      kind: "tpu", "gpu" or "cpu".
      fast: in the cheaper form of the resampling convolutions, else in the plain one.
    """
    whole = replace(
        config,
        {
            "optim.accumulate": 1,
            "model.attention_chunks": 1,
            "model.remat": False,
            "model.fast": fast,
            "model.target": "cpu" if kind == "cpu" else "accelerator",
            "run.parallel": "jit",
        },
    )
    one = jax.devices("cpu")[:1]
    game = make_game(whole)
    lowered = map_step(game, one).lower(*abstract_arguments(game, one))
    return lowered.cost_analysis()["flops"]


def state_bytes(state: GANState) -> dict[str, int]:
    """Bytes of what every device keeps from step to step, by what it is."""
    players = (state.g, state.d)
    return {
        "parameters": _bytes([player.params for player in players]),
        "Adam's moments": _bytes([player.opt_state for player in players]),
        "averages": _bytes(state.ema),
        "statistics": _bytes([player.stats for player in players]),
    }


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
