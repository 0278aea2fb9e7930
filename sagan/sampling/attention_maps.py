"""The attention maps beta of a network in one image, and statistics of them."""

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
_IMAGES = 8  # averaged in a run's log


class AttentionGrid(NamedTuple):
    """Positions of an attention layer in the image.

    Attributes:
      size: Height and width of the image in pixels.
      queries: Number of positions j along each side of the image.
    """

    size: int
    queries: int

    @property
    def keys(self) -> int:
        """Positions i along each side: keys are pooled 2x2, an odd last one dropped."""
        return self.queries // 2

    def query_centres(self) -> Float[np.ndarray, "j 2"]:
        """Row and column of each query's centre, in pixels."""
        return self._centres(np.arange(self.queries) + 0.5)

    def key_centres(self) -> Float[np.ndarray, "i 2"]:
        """Row and column of each key's centre, in pixels."""
        return self._centres(2 * np.arange(self.keys) + 1.0)

    def _centres(self, along: np.ndarray) -> np.ndarray:
        square = np.stack(np.meshgrid(along, along, indexing="ij"), -1)
        return square.reshape(-1, 2) * (self.size / self.queries)


class LayerAttention(NamedTuple):
    """One attention layer in one image.

    Attributes:
      beta: Share of position i in what position j draws; rows sum to one.
      strength: Norm of gamma * v(...) over the norm of x.
    """

    beta: Float[Array, "j i"]
    strength: Float[Array, ""]


Attention = dict[str, LayerAttention]  # by layer
Reader = Callable[..., tuple[Array, Attention]]


def attention_layers(config: Config, player: str) -> dict[str, AttentionGrid]:
    """The attention layers of player "g" or "d" by name, from input to output."""
    net = config.g if player == "g" else config.d
    if net.block != "attention":
        return {}
    blocks = generator_blocks if player == "g" else discriminator_blocks
    return {
        f"attention{block.resolution}": AttentionGrid(
            config.data.size, block.resolution
        )
        for block in blocks(config)
        if block.slot
    }


def make_reader(config: Config, player: str) -> Reader:
    """A compiled function that returns a network's output and attention for an image.

    For the generator, (variables, z [z], label) -> (image [h w c] in [-1, 1],
    Attention); for the discriminator, (variables, image [h w c], label) -> (logit,
    Attention). It takes one image at a time because beta is large: 16 MiB for 64x64
    positions, 256 MiB for 128x128.
    """
    return jax.jit(lambda *inputs: _read(config, player, *inputs))


def _read(
    config: Config,
    player: str,
    variables: PyTree[Array],
    one: Float[Array, "..."],
    label: Int[Array, ""],
) -> tuple[Array, Attention]:
    generates = player == "g"
    network: Any = Generator(config) if generates else Discriminator(config)
    options = {"train": False} if generates else {}
    output, sown = network.apply(
        variables, one[None], label[None], mutable=["intermediates"], **options
    )
    attention = {}
    for name in attention_layers(config, player):
        layer = sown["intermediates"][name]
        x, drawn = (layer[key][0].astype(jnp.float32) for key in ("x", "drawn"))
        strength = jnp.linalg.norm(drawn.ravel()) / jnp.linalg.norm(x.ravel())
        attention[name] = LayerAttention(layer["beta"][0][0], strength)
    return output[0], attention


def entropy_bits(beta: Beta) -> Rows:
    """Entropy of each row: 0 if it attends to one key, at most `uniform_bits`."""
    bits = -jax.scipy.special.xlogy(beta, beta).sum(axis=1) / jnp.log(2.0)
    return jnp.maximum(bits, 0.0)  # no -0.0


def uniform_bits(grid: AttentionGrid) -> float:
    """Entropy of uniform attention."""
    return float(np.log2(grid.keys**2))


def distance_pixels(beta: Beta, grid: AttentionGrid) -> Rows:
    """Mean distance from each query to the keys that it attends to."""
    return (beta * _distances(grid)).sum(axis=1)


def uniform_pixels(grid: AttentionGrid) -> Rows:
    """Mean distance of each query under uniform attention."""
    return _distances(grid).mean(axis=1)


def _distances(grid: AttentionGrid) -> Float[Array, "j i"]:
    # recomputed at every use: for 128x128 positions it is as large as beta
    queries = jnp.asarray(grid.query_centres(), jnp.float32)
    keys = jnp.asarray(grid.key_centres(), jnp.float32)
    y, x = (queries[:, None, axis] - keys[None, :, axis] for axis in (0, 1))
    return jnp.hypot(y, x)


def make_statistics(
    config: Config, source: Source
) -> Callable[[GANState], dict[str, Array]]:
    """A function from a state to the attention statistics that a run logs.

    Means over all positions of a few images: for the generator (raw weights, running
    batch statistics) from the first latents of config.run.seed, for the discriminator
    from the source. Keys are `entropy/g/attention32` (bits), `distance/g/attention32`
    (pixels) and `strength/g/attention32`.
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
            attention = _read(config, player, *given[player], label)[1]
            for name, (beta, strength) in attention.items():
                place, grid = f"{player}/{name}", layers[player][name]
                values[f"entropy/{place}"] = entropy_bits(beta).mean()
                values[f"distance/{place}"] = distance_pixels(beta, grid).mean()
                values[f"strength/{place}"] = strength
        return values

    def statistics(state: GANState) -> dict[str, Array]:
        each = [of_one(state, *one) for one in inputs]
        return jax.tree.map(lambda *values: jnp.stack(values).mean(), *each)

    return statistics
