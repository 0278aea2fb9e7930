"""Attention of a checkpoint's network in several images, as arrays."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int, UInt8

from sagan.checkpoints.restore import OpenedRun
from sagan.config.schema import ConfigError
from sagan.data.pipeline import Source
from sagan.data.pixels import to_float, to_uint8
from sagan.data.source import Examples
from sagan.sampling import attention_maps
from sagan.sampling.attention_maps import Attention, AttentionGrid, LayerAttention
from sagan.sampling.sampler import latents
from sagan.state import gammas

AUTO = 4  # number of queries chosen automatically
Pixels = Sequence[tuple[int, int]]


class ImageAttention(NamedTuple):
    """One image with the attention of a network's layers, and D's logit or None."""

    image: UInt8[np.ndarray, "h w c"]
    label: int
    layers: Attention
    logit: float | None = None


class LayerSummary(NamedTuple):
    """One attention layer in several images.

    Attributes:
      queries: Positions whose rows of beta are kept.
      mean: Mean of all rows of beta: how much attention each key receives.
      strength: Norm of gamma * v(...) over the norm of x.
      beta: All rows, if they were asked for.
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
        """All fields by name, but for the grid and those that are None."""
        fields = self._asdict().items()
        return {k: v for k, v in fields if k != "grid" and v is not None}


def read_generator(
    opened: OpenedRun, labels: Int[np.ndarray, " n"], *, seed: int
) -> Iterator[ImageAttention]:
    """The generator's attention in samples 0, 1, ... of a seed.

    Raises:
      ConfigError: A result is not finite.
    """
    reader, variables = attention_maps.make_reader(opened.config, "g"), opened.variables
    for i, label in enumerate(labels):
        z = latents(opened.config, seed, np.arange(i, i + 1))[0]
        image, layers = reader(variables, z, np.int32(label))
        pixels = np.asarray(to_uint8(image))
        yield _check_finite("g", ImageAttention(pixels, int(label), layers))


def read_discriminator(
    opened: OpenedRun, examples: Examples
) -> Iterator[ImageAttention]:
    """The discriminator's attention in real images.

    Raises:
      ConfigError: A result is not finite.
    """
    reader, d = attention_maps.make_reader(opened.config, "d"), opened.state.d
    variables = {"params": d.params, **d.stats}
    for image, label in zip(*examples, strict=True):
        logit, layers = reader(variables, to_float(image), np.int32(label))
        read = ImageAttention(image, int(label), layers, float(logit))
        yield _check_finite("d", read)


def _check_finite(player: str, read: ImageAttention) -> ImageAttention:
    layers = jax.device_get(read.layers)
    for name, (beta, strength) in layers.items():
        if not np.isfinite(beta.sum() + strength):
            raise ConfigError(f"{player}/{name}: its attention is not finite")
    if read.logit is not None and not np.isfinite(read.logit):
        raise ConfigError("d: its logit is not finite")
    return read._replace(layers=layers)


def player_gammas(opened: OpenedRun, player: str) -> dict[str, Float[Array, ""]]:
    """The gammas of the layers that `read_generator` or `read_discriminator` reads."""
    g, d = opened.variables["params"], opened.state.d.params
    return gammas(g if player == "g" else d)


def choose_queries(
    beta: attention_maps.Beta, count: int = AUTO
) -> Int[np.ndarray, " q"]:
    """Positions that attend to different keys.

    The first has the row of lowest entropy. Each further one has the row with the
    largest total-variation distance to the nearest row chosen before.
    """
    beta = np.asarray(beta)
    chosen = [int(np.argmin(attention_maps.entropy_bits(beta)))]
    apart = np.full(len(beta), np.inf)
    while len(chosen) < min(count, len(beta)):
        apart = np.minimum(apart, np.abs(beta - beta[chosen[-1]]).sum(axis=1))
        chosen.append(int(np.argmax(apart)))
    return np.array(chosen)


def check_pixels(size: int, pixels: Pixels) -> None:
    """Raises a ConfigError if a pixel lies outside an image of this size."""
    for y, x in pixels:
        if not (0 <= y < size and 0 <= x < size):
            raise ConfigError(
                f"--queries {y},{x}: lies outside the image; row and column must be 0"
                f" to {size - 1}"
            )


def position_of(grid: AttentionGrid, pixel: tuple[int, int]) -> int:
    """The position j that contains a pixel (row, column)."""
    row, column = (at * grid.queries // grid.size for at in pixel)
    return row * grid.queries + column


def summarise(
    read: Iterator[ImageAttention],
    grids: Mapping[str, AttentionGrid],
    gamma: Mapping[str, Any],
    *,
    pixels: Pixels | None = None,
    whole: bool = False,
) -> tuple[Examples, dict[str, LayerSummary]]:
    """The images, and a summary of each layer; one beta in memory at a time.

    Queries are those of the pixels, or else choose_queries for each image; `whole`
    keeps all rows of beta.
    """
    images, labels = [], []
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in grids}
    for one in read:
        images.append(one.image)
        labels.append(one.label)
        for name, grid in grids.items():
            parts[name].append(_summarise_one(one.layers[name], grid, pixels, whole))
    summaries = {}
    for name, grid in grids.items():
        arrays = [np.stack(column) for column in zip(*parts[name], strict=True)]
        summaries[name] = LayerSummary(grid, float(gamma[name]), *arrays)
    return Examples(np.stack(images), np.array(labels, np.int32)), summaries


def _summarise_one(
    layer: LayerAttention, grid: AttentionGrid, pixels: Pixels | None, whole: bool
) -> tuple[np.ndarray, ...]:
    beta = np.asarray(layer.beta)
    if pixels is None:
        queries = choose_queries(beta)
    else:
        queries = np.array([position_of(grid, pixel) for pixel in pixels])
    bits = np.asarray(attention_maps.entropy_bits(beta))
    distance = np.asarray(attention_maps.distance_pixels(beta, grid))
    kept = (queries, beta[queries], beta.mean(axis=0), bits, distance)
    return (*kept, np.asarray(layer.strength), *[beta] * whole)


def choose_real_images(
    source: Source, labels: Int[np.ndarray, " n"], *, seed: int, classes: int
) -> Examples:
    """Images of these labels in turn, in an order that the seed decides.

    Without classes only the number of labels counts.

    Raises:
      ConfigError: There are too few.
    """
    order = np.random.default_rng(seed).permutation(len(source))
    known = source.labels(order) if classes else np.zeros(len(order), np.int32)
    chosen = np.empty(len(labels), int)
    for label in np.unique(labels):
        places = labels == label
        found = order[known == label][: places.sum()]
        if len(found) < places.sum():
            raise ConfigError(
                f"--n {len(labels)}: {source.place} has {len(found)} images of class"
                f" {label}, fewer than {places.sum()}"
            )
        chosen[places] = found
    return source.examples(chosen)
