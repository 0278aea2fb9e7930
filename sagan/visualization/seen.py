"""What the attention layers of a network did in several images, as arrays."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, Int, UInt8

from sagan.checkpoints.restore import Opened
from sagan.config.schema import ConfigError
from sagan.data.pipeline import Source
from sagan.data.pixels import to_float, to_uint8
from sagan.data.source import Examples
from sagan.sampling import attention_maps
from sagan.sampling.attention_maps import Attention, AttentionGrid, LayerAttention
from sagan.sampling.sampler import latents

AUTO = 4  # queries that are chosen where none are asked for
Pixels = Sequence[tuple[int, int]]


class Seen(NamedTuple):
    """One image, and what the attention layers of a network did in it.

    Attributes:
      image: what was generated, or the real one.
      label: of the image.
      reads: by layer.
      logit: of the discriminator; None: the image is the generator's.
    """

    image: UInt8[np.ndarray, "h w c"]
    label: int
    reads: Attention
    logit: float | None = None


class Looks(NamedTuple):
    """One attention layer in several images.

    Attributes:
      grid: of the layer.
      gamma: of the layer.
      queries: positions whose rows are kept, q of them for each image.
      rows: of beta, for these.
      mean: of all rows of beta: how much every position is looked at.
      entropy_bits: of each row.
      distance_pixels: of each row.
      strength: the norm of gamma * v(...) over that of x, for each image.
      beta: all rows, if they were asked for.
    """

    grid: AttentionGrid
    gamma: float
    queries: Int[np.ndarray, "n q"]
    rows: Float32[np.ndarray, "n q i"]
    mean: Float32[np.ndarray, "n i"]
    entropy_bits: Float32[np.ndarray, "n j"]
    distance_pixels: Float32[np.ndarray, "n j"]
    strength: Float32[np.ndarray, " n"]
    beta: Float32[np.ndarray, "n j i"] | None = None

    def arrays(self) -> dict[str, Any]:
        """All fields but the grid and what is None, by name."""
        fields = self._asdict().items()
        return {k: v for k, v in fields if k != "grid" and v is not None}


def of_generated(
    opened: Opened, labels: Int[np.ndarray, " n"], *, seed: int
) -> Iterator[Seen]:
    """The generator's layers, in samples 0, 1, ... of a seed.

    Raises:
      ConfigError: what they compute is not finite.
    """
    reader = attention_maps.make_reader(opened.config, "g")
    variables = opened.variables
    for i, label in enumerate(labels):
        z = latents(opened.config, seed, np.arange(i, i + 1))[0]
        image, reads = reader(variables, z, np.int32(label))
        pixels = np.asarray(to_uint8(image))
        yield _finite("g", Seen(pixels, int(label), jax.device_get(reads)))


def of_real(opened: Opened, examples: Examples) -> Iterator[Seen]:
    """The discriminator's layers, in real images.

    Raises:
      ConfigError: what they compute, or the logit, is not finite.
    """
    reader = attention_maps.make_reader(opened.config, "d")
    d = opened.state.d
    variables = {"params": d.params, **d.stats}
    for image, label in zip(*examples, strict=True):
        logit, reads = reader(variables, to_float(image), np.int32(label))
        seen = Seen(image, int(label), jax.device_get(reads), float(logit))
        yield _finite("d", seen)


def _finite(player: str, seen: Seen) -> Seen:
    for name, read in seen.reads.items():
        if not np.isfinite(read.beta.sum() + read.strength):
            raise ConfigError(f"{player}/{name}: what it computes is not finite")
    if seen.logit is not None and not np.isfinite(seen.logit):
        raise ConfigError("d: its logit is not finite")
    return seen


def choose_queries(
    beta: attention_maps.Beta, count: int = AUTO
) -> Int[np.ndarray, " q"]:
    """Positions that look at different things.

    First the one whose row has the lowest entropy; then, again and again, the one whose
    row differs most (in total variation) from that of the nearest chosen one.
    """
    beta = np.asarray(beta)
    chosen = [int(np.argmin(attention_maps.entropy_bits(beta)))]
    apart = np.full(len(beta), np.inf)
    while len(chosen) < min(count, len(beta)):
        apart = np.minimum(apart, np.abs(beta - beta[chosen[-1]]).sum(axis=1))
        chosen.append(int(np.argmax(apart)))
    return np.array(chosen)


def check_inside(size: int, pixels: Pixels) -> None:
    """Raises ConfigError where a pixel lies outside an image of this size."""
    for y, x in pixels:
        if not (0 <= y < size and 0 <= x < size):
            raise ConfigError(
                f"--queries {y},{x}: lies outside the image; row and column must be 0"
                f" to {size - 1}"
            )


def position(grid: AttentionGrid, pixel: tuple[int, int]) -> int:
    """The position j that a pixel (row, column) lies in."""
    row, column = (at * grid.queries // grid.size for at in pixel)
    return row * grid.queries + column


def gather(
    seen: Iterator[Seen],
    grids: Mapping[str, AttentionGrid],
    gammas: Mapping[str, Any],
    *,
    pixels: Pixels | None = None,
    whole: bool = False,
) -> tuple[Examples, dict[str, Looks]]:
    """The images, and what each layer did in them; one image in memory at a time.

    Args:
      seen: the images.
      grids: of the layers that count.
      gammas: of the layers.
      pixels: the queries; None: choose_queries for each image.
      whole: keep all rows of beta.
    """
    images, labels = [], []
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in grids}
    for one in seen:
        images.append(one.image)
        labels.append(one.label)
        for name, grid in grids.items():
            parts[name].append(_of_one(one.reads[name], grid, pixels, whole))
    looks = {}
    for name, grid in grids.items():
        arrays = [np.stack(column) for column in zip(*parts[name], strict=True)]
        looks[name] = Looks(grid, float(gammas[name]), *arrays)
    return Examples(np.stack(images), np.array(labels, np.int32)), looks


def _of_one(
    read: LayerAttention, grid: AttentionGrid, pixels: Pixels | None, whole: bool
) -> tuple[np.ndarray, ...]:
    beta = np.asarray(read.beta)
    if pixels is None:
        queries = choose_queries(beta)
    else:
        queries = np.array([position(grid, pixel) for pixel in pixels])
    bits = np.asarray(attention_maps.entropy_bits(beta))
    far = np.asarray(attention_maps.distance_pixels(beta, grid))
    kept = (queries, beta[queries], beta.mean(axis=0), bits, far)
    return (*kept, np.asarray(read.strength), *[beta] * whole)


def real_examples(
    source: Source, labels: Int[np.ndarray, " n"], *, seed: int, classes: int
) -> Examples:
    """Images of these labels in turn, in an order that the seed decides.

    Args:
      source: of the images.
      labels: wanted; of an unconditional run (`classes` is 0) only their number counts.
      seed: of the order.
      classes: of the run.

    Raises:
      ConfigError: there are not so many.
    """
    order = np.random.default_rng(seed).permutation(len(source))
    of = source.labels(order) if classes else np.zeros(len(order), np.int32)
    chosen = np.empty(len(labels), int)
    for label in np.unique(labels):
        places = labels == label
        found = order[of == label][: places.sum()]
        if len(found) < places.sum():
            raise ConfigError(
                f"--n {len(labels)}: {source.place} has {len(found)} images of class"
                f" {label}, fewer than {places.sum()}"
            )
        chosen[places] = found
    return source.examples(chosen)
