"""What the attention explorer of a page shows: rows of beta, small enough to embed.

What the page does with it is in explorer.js; `unpacked` is the same in Python.
"""

import base64
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from sagan.checkpoints.restore import Opened, labels_to_draw
from sagan.data.pipeline import Source
from sagan.sampling.attention_maps import (
    AttentionGrid,
    LayerAttention,
    attention_layers,
    distance_pixels,
    entropy_bits,
    uniform_bits,
    uniform_pixels,
)
from sagan.state import gammas
from sagan.visualization.record import labelled, picture
from sagan.visualization.seen import Seen, of_generated, of_real

MOST_QUERIES, MOST_KEYS = 32, 16  # along each side
OVERVIEW: tuple[str, ...] = (
    "layer",
    "positions",
    "gamma",
    "strength",
    "entropy",
    "distance",
)
_NUMBERS = ("top", "entropy", "distance", "largest")
Json = dict[str, Any]
_entropy = jax.jit(entropy_bits)


class Shown(NamedTuple):
    """Which positions of a layer the page has.

    Attributes:
      grid: of the layer.
    """

    grid: AttentionGrid

    @property
    def stride(self) -> int:
        """Every which query is shown, along each side."""
        return -(-self.grid.queries // MOST_QUERIES)

    @property
    def block(self) -> int:
        """How many keys are one cell, along each side; the last may have fewer."""
        return -(-self.grid.keys // MOST_KEYS)

    @property
    def side(self) -> int:
        """Queries shown, along each side."""
        return -(-self.grid.queries // self.stride)

    @property
    def cells(self) -> int:
        """Cells of keys, along each side."""
        return -(-self.grid.keys // self.block)

    @property
    def rows(self) -> np.ndarray:
        """The numbers j of the shown queries, in their order."""
        along = np.arange(0, self.grid.queries, self.stride)
        return (along[:, None] * self.grid.queries + along).ravel()

    @property
    def nbytes(self) -> int:
        """Of one image, in base64."""
        queries, cells = self.side**2, self.cells**2
        return (queries * (cells + 4 * len(_NUMBERS)) + 2) * 4 // 3


def facts(name: str, grid: AttentionGrid, gamma: float) -> Json:
    """What is the same in all images."""
    shown = Shown(grid)
    return {
        "name": name,
        "queries": grid.queries,
        "keys": grid.keys,
        "stride": shown.stride,
        "side": shown.side,
        "block": shown.block,
        "cells": shown.cells,
        "gamma": gamma,
        "uniform_bits": uniform_bits(grid),
        "uniform_share": 1 / grid.keys**2,
        "uniform_pixels": _base64(np.asarray(uniform_pixels(grid))[shown.rows]),
    }


def packed(read: LayerAttention, grid: AttentionGrid) -> Json:
    """One layer in one image.

    `beta` has a byte for each cell of each shown query: its share over the largest cell
    of that query, `top`, times 255. Entropy, distance and the largest share are those
    of the layer's own row, before anything is summed or rounded.
    """
    shown = Shown(grid)
    beta = np.asarray(read.beta)[shown.rows].astype(np.float32)
    cells = _summed(beta, shown)
    top = cells.max(axis=1)
    levels = np.rint(cells / np.maximum(top, 1e-30)[:, None] * 255).astype(np.uint8)
    numbers = {
        "top": top,
        "entropy": _entropy(beta),
        "distance": np.asarray(distance_pixels(read.beta, grid))[shown.rows],
        "largest": beta.max(axis=1),
    }
    strength = float(read.strength)
    encoded = {name: _base64(values) for name, values in numbers.items()}
    return {"strength": strength, "beta": _base64(levels, np.uint8), **encoded}


def unpacked(layer: Mapping[str, Any]) -> Float[np.ndarray, "shown cells"]:
    """The shares that the page shows, a row for each shown query."""
    top = decoded(layer["top"])
    levels = np.frombuffer(base64.b64decode(layer["beta"]), np.uint8)
    return levels.reshape(len(top), -1).astype(np.float32) / 255 * top[:, None]


def decoded(text: str) -> Float[np.ndarray, " n"]:
    """The numbers of base64."""
    return np.frombuffer(base64.b64decode(text), "<f4")


def _summed(
    beta: Float[np.ndarray, "shown i"], shown: Shown
) -> Float[np.ndarray, "shown cells"]:
    keys = shown.grid.keys
    square = beta.reshape(-1, keys, keys)
    starts = np.arange(0, keys, shown.block)
    for axis in (1, 2):
        square = np.add.reduceat(square, starts, axis=axis)
    return square.reshape(len(beta), -1)


def _base64(values: Any, dtype: Any = "<f4") -> str:
    return base64.b64encode(np.asarray(values).astype(dtype).tobytes()).decode()


class Group(NamedTuple):
    """One network of one run, looked into at a few images.

    Attributes:
      player: "g" or "d".
      layers: facts of each.
      images: each with its label, picture, packed layers and, of "d", logit.
    """

    player: str
    layers: list[Json]
    images: list[Json]


def image(
    pixels: UInt8[np.ndarray, "h w c"],
    label: str,
    layers: list[Json],
    logit: float | None = None,
) -> Json:
    """One image of a Group."""
    seen = picture(pixels, label)
    return {"label": label, "picture": seen.uri, "layers": layers, "logit": logit}


def how_many(grids: Mapping[str, AttentionGrid], most: int, budget: int) -> int:
    """The images that fit into so many bytes."""
    size = max(grid.size for grid in grids.values())
    each = size**2 * 4 + sum(Shown(grid).nbytes for grid in grids.values())
    return min(most, budget // each)


def of_generator(
    opened: Opened, class_names: tuple[str, ...], *, seed: int, n: int
) -> Group:
    """The generator at the first n samples of a seed, those of `sagan sample`.

    Raises:
      ConfigError: what it computes is not finite.
    """
    labels = labels_to_draw(opened.config, n, None)
    params = opened.variables["params"]
    return _group(
        opened, "g", params, of_generated(opened, labels, seed=seed), class_names
    )


def of_discriminator(
    opened: Opened, class_names: tuple[str, ...], source: Source, *, n: int
) -> Group:
    """The discriminator at n real images, spread evenly over the data.

    Raises:
      ConfigError: an image cannot be read, or what it computes is not finite.
    """
    chosen = np.linspace(0, len(source) - 1, n).astype(int)
    seen = of_real(opened, source.examples(chosen))
    return _group(opened, "d", opened.state.d.params, seen, class_names)


def _group(
    opened: Opened,
    player: str,
    params: Mapping[str, Any],
    seen: Iterator[Seen],
    class_names: tuple[str, ...],
) -> Group:
    grids, gamma = attention_layers(opened.config, player), gammas(params)
    layers = [facts(name, grid, float(gamma[name])) for name, grid in grids.items()]
    images = []
    for one in seen:
        looks = [packed(one.reads[name], grid) for name, grid in grids.items()]
        label = labelled(class_names, one.label) if opened.config.data.classes else ""
        images.append(image(one.image, label, looks, one.logit))
    return Group(player, layers, images)


def signed(value: float) -> str:
    """With a real minus sign."""
    return f"{value:.3f}".replace("-", "−")


def overview(group: Group) -> list[list[str]]:
    """A row of OVERVIEW for each layer: means over positions and images."""
    lines = []
    for number, layer in enumerate(group.layers):
        mine = [seen["layers"][number] for seen in group.images]

        def mean(name: str, mine: list[Json] = mine) -> float:
            return float(np.mean([decoded(one[name]) for one in mine]))

        strength = np.mean([one["strength"] for one in mine])
        pixels = decoded(layer["uniform_pixels"]).mean()
        positions = f"{layer['queries']}×{layer['queries']}"
        entropy = f"{mean('entropy'):.2f} of {layer['uniform_bits']:.2f} bits"
        distance = f"{mean('distance'):.1f} px (uniform {pixels:.1f})"
        row = [positions, signed(layer["gamma"]), f"{strength:.3f}", entropy, distance]
        lines.append([layer["name"], *row])
    return lines
