"""What the attention layers of a network do in one image: beta, and its statistics.

Pure but for the compiled functions; drawing is in sagan.visualization.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from sagan.config.architecture import discriminator_blocks, generator_blocks
from sagan.config.schema import Config
from sagan.data.pipeline import Source
from sagan.data.pixels import to_float
from sagan.discriminator import Discriminator
from sagan.generator import Generator
from sagan.sampling.sampler import latents
from sagan.state import GANState, generator_variables

Beta = Float[Array, "j i"] | Float[np.ndarray, "j i"]
Rows = Float[Array, " j"] | Float[np.ndarray, " j"]
_ENDS = ("queries", "keys")
_IMAGES = 8  # over which a run's log averages


class Grid(NamedTuple):
    """Where the positions of an attention layer lie in the image.

    Attributes:
      size: of the image, in pixels.
      queries: positions j along each side of the image.
    """

    size: int
    queries: int

    @property
    def keys(self) -> int:
        """Positions i along each side: keys are pooled 2x2, an odd last one dropped."""
        return self.queries // 2

    def centres(self, of: str) -> Float[np.ndarray, "positions 2"]:
        """Row and column, in pixels, of the middle of all "queries" or "keys"."""
        pixels = self.size / self.queries
        if of == "keys":
            along = (2 * np.arange(self.keys) + 1) * pixels
        else:
            along = (np.arange(self.queries) + 0.5) * pixels
        return np.stack(np.meshgrid(along, along, indexing="ij"), -1).reshape(-1, 2)


class Read(NamedTuple):
    """What one attention layer did in one image.

    Attributes:
      beta: the share of position i in what position j draws; rows sum to one.
      strength: the norm of gamma * v(...) over that of x, over all of the image.
    """

    beta: Float[Array, "j i"]
    strength: Float[Array, ""]


Reads = dict[str, Read]
Reader = Callable[..., tuple[Array, Reads]]
History = Callable[[GANState], dict[str, Array]]


def attention_layers(config: Config, player: str) -> dict[str, Grid]:
    """The attention layers of player "g" or "d" by name, in the order of the data."""
    net = config.g if player == "g" else config.d
    if net.block != "attention":
        return {}
    blocks = generator_blocks if player == "g" else discriminator_blocks
    return {
        f"attention{block.resolution}": Grid(config.data.size, block.resolution)
        for block in blocks(config)
        if block.slot
    }


def make_reader(config: Config, player: str) -> Reader:
    """A compiled function that looks into one network at one image.

    Of the generator, (variables, z [z], label) -> (image [h w c] in [-1, 1], Reads);
    of the discriminator, (variables, image [h w c], label) -> (logit, Reads). One image
    at a time: beta is large, 16 MiB for 64x64 positions and 256 MiB for 128x128.
    """
    return jax.jit(lambda *inputs: _read(config, player, *inputs))


def _read(
    config: Config,
    player: str,
    variables: PyTree[Array],
    one: Float[Array, "..."],
    label: Int[Array, ""],
) -> tuple[Array, Reads]:
    inputs = (one[None], label[None])
    mutable = ["intermediates"]
    if player == "g":
        network = Generator(config)
        result: Any = network.apply(variables, *inputs, train=False, mutable=mutable)
    else:
        result = Discriminator(config).apply(variables, *inputs, mutable=mutable)
    output, sown = result

    def of(layer: dict[str, Any]) -> Read:
        x, drawn = (layer[name][0].astype(jnp.float32) for name in ("x", "drawn"))
        strength = jnp.linalg.norm(drawn.ravel()) / jnp.linalg.norm(x.ravel())
        return Read(layer["beta"][0][0], strength)

    layers = attention_layers(config, player)
    return output[0], {name: of(sown["intermediates"][name]) for name in layers}


def entropy_bits(beta: Beta) -> Rows:
    """Of each row: 0 where it looks at one position, uniform_bits if at all alike."""
    bits = -jax.scipy.special.xlogy(beta, beta).sum(axis=1) / jnp.log(2.0)
    return jnp.maximum(bits, 0.0)  # no -0.0


def uniform_bits(grid: Grid) -> float:
    """The entropy of looking everywhere alike: the largest there is."""
    return float(np.log2(grid.keys**2))


def distance_pixels(beta: Beta, grid: Grid) -> Rows:
    """How far each position looks: the mean distance to what it draws from."""
    return (beta * _apart(grid)).sum(axis=1)


def uniform_pixels(grid: Grid) -> Rows:
    """How far each position would look if it looked everywhere alike."""
    return _apart(grid).mean(axis=1)


def _apart(grid: Grid) -> Float[Array, "j i"]:
    # computed where it is used: for 128x128 positions it is as large as beta
    queries, keys = (jnp.asarray(grid.centres(of), jnp.float32) for of in _ENDS)
    y, x = (queries[:, None, axis] - keys[None, :, axis] for axis in (0, 1))
    return jnp.hypot(y, x)


def make_history(config: Config, source: Source) -> History:
    """A function of a state: a run's curves of attention.

    Means over the positions of a few images, those of the generator (raw weights,
    running batch statistics) from the first latents of config.run.seed, those of the
    discriminator from the source: `entropy/g/attention32` in bits,
    `distance/g/attention32` in pixels and `strength/g/attention32`.
    """
    layers = {player: attention_layers(config, player) for player in "gd"}
    if not any(layers.values()):
        return lambda state: {}
    image, y = source.examples(np.linspace(0, len(source) - 1, _IMAGES).astype(int))
    z = latents(config, config.run.seed, np.arange(_IMAGES))
    inputs = list(zip(z, to_float(image), y, strict=True))

    @jax.jit
    def of_one(
        state: GANState,
        z: Float[Array, " z"],
        x: Float[Array, "h w c"],
        label: Int[Array, ""],
    ) -> dict[str, Float[Array, ""]]:
        d = {"params": state.d.params, **state.d.stats}
        given = {"g": (generator_variables(state), z), "d": (d, x)}
        values = {}
        for player in (player for player in layers if layers[player]):
            reads = _read(config, player, *given[player], label)[1]
            for name, (beta, strength) in reads.items():
                place, grid = f"{player}/{name}", layers[player][name]
                values[f"entropy/{place}"] = entropy_bits(beta).mean()
                values[f"distance/{place}"] = distance_pixels(beta, grid).mean()
                values[f"strength/{place}"] = strength
        return values

    def history(state: GANState) -> dict[str, Array]:
        each = [of_one(state, *one) for one in inputs]
        return jax.tree.map(lambda *values: jnp.stack(values).mean(), *each)

    return history
