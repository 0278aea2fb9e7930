"""Each of our layers beside its tensors in another project: one list, read both ways.

Weights of torch are [out in h w] and [out in], ours [h w in out] and [in out]. The
vectors u and v have one entry for each column and row of the matrix that is normalised,
so their order follows from the weight's: `orders` finds it by sending indices through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from sagan.config.architecture import (
    Block,
    discriminator_blocks,
    generator_blocks,
    generator_stem,
)
from sagan.config.schema import Config
from sagan.weights.layouts import Layout, places

Path = tuple[str, ...]
Transform = Callable[[np.ndarray], np.ndarray]


class Normalised(NamedTuple):
    """A layer with spectral normalisation.

    Attributes:
      ours: Path of the layer in our collections.
      theirs: Name of the layer.
      inward: Their weight to ours.
      outward: Our weight to theirs.
      leaf: Our name of the weight; an `embedding` is normalised as its transpose.
      bias: Whether it has a bias.
    """

    ours: Path
    theirs: str
    inward: Transform
    outward: Transform
    leaf: str = "kernel"
    bias: bool = True


class Plain(NamedTuple):
    """One array without spectral normalisation.

    Attributes:
      collection: params or batch_stats.
      ours: Path in it.
      theirs: Name of the tensor.
      shape: Theirs, if it has another than ours.
      offset: Added to their numbers to give ours: 1 for scales.
    """

    collection: str
    ours: Path
    theirs: str
    shape: tuple[int, ...] | None = None
    offset: float = 0.0


Entry = Normalised | Plain


def matrix(entry: Normalised, w: np.ndarray) -> np.ndarray:
    """Our weight as the matrix [rows, out] whose sigma divides it."""
    return w.T if entry.leaf == "embedding" else w.reshape(-1, w.shape[-1])


def orders(entry: Normalised, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Their index of each entry of our u, and of our v, for their weight's shape."""
    out, rows = shape[0], int(np.prod(shape[1:]))
    index = np.arange(out).reshape(-1, *[1] * len(shape[1:]))
    by_out = matrix(entry, entry.inward(np.broadcast_to(index, shape)))
    by_row = np.broadcast_to(np.arange(rows).reshape(shape[1:]), shape)
    return by_out[0], matrix(entry, entry.inward(by_row))[:, 0]


def generator_entries(
    config: Config, layout: Layout, *, bgr: bool = False
) -> Iterator[Entry]:
    """The layers of the generator that a config describes.

    Args:
      config: data.classes is a number, not 0.
      layout: The project's names.
      bgr: Whether its images are BGR.
    """
    names, blocks = layout.names, generator_blocks(config)
    _, base = generator_stem(config)
    stem = partial(_stem_inward, base), partial(_stem_outward, base)
    yield Normalised(("stem",), names["stem"], *stem)
    where = places(layout, [block.slot for block in blocks], d=False)
    for i, (block, place) in enumerate(zip(blocks, where.blocks, strict=True), 1):
        for conv in ("conv1", "conv2", "shortcut"):
            yield _conv((f"block{i}", conv), f"{place}.{names[conv]}")
        for norm in ("bn1", "bn2"):
            name = f"{place}.{names[norm]}"
            yield from _norm(config, layout, (f"block{i}", norm), name)
        yield from _attention(layout, block, where.attention[i - 1])
    kinds = ("params", "scale"), ("params", "bias")
    kinds += ("batch_stats", "mean"), ("batch_stats", "var")
    for (kind, leaf), name in zip(kinds, layout.out_norm, strict=True):
        yield Plain(kind, ("bn_out", leaf), name)
    yield _conv(("out",), names["out"], colours=0 if bgr else None)


def discriminator_entries(
    config: Config, layout: Layout, *, bgr: bool = False
) -> Iterator[Entry]:
    """The layers of the discriminator; arguments as for the generator."""
    names, blocks = layout.names, discriminator_blocks(config)
    where = places(layout, [block.slot for block in blocks], d=True)
    channels = config.data.channels
    for i, (block, place) in enumerate(zip(blocks, where.blocks, strict=True), 1):
        learned = block.resampled or channels != block.channels
        for conv in ["conv1", "conv2", *["shortcut"] * learned]:
            pixels = bgr and i == 1 and conv != "conv2"
            name = f"{place}.{names[conv]}"
            yield _conv((f"block{i}", conv), name, colours=1 if pixels else None)
        channels = block.channels
        yield from _attention(layout, block, where.attention[i - 1])
    yield Normalised(("logit",), names["logit"], _transposed, _transposed)
    table = partial(Normalised, leaf="embedding", bias=False)
    yield table(("embed",), names["embed"], _same, _same)


def _norm(config: Config, layout: Layout, ours: Path, theirs: str) -> Iterator[Entry]:
    """A class-conditional batch norm; their scales are 1 plus what they store."""
    for leaf, suffix in zip(("mean", "var"), layout.moments, strict=True):
        yield Plain("batch_stats", (*ours, leaf), f"{theirs}.{suffix}")
    transform = _transposed if layout.linear_tables else _same
    for leaf, suffix in zip(("scale", "bias"), layout.scale_and_bias, strict=True):
        name, place = f"{theirs}.{suffix}", (*ours, leaf)
        if config.g.sn_tables == "none":
            yield Plain(
                "params", place, f"{name}.weight", offset=float(leaf == "scale")
            )
            continue
        kind = {"channels": "kernel", "classes": "embedding"}[config.g.sn_tables]
        yield Normalised(place, name, transform, transform, leaf=kind, bias=False)


def _attention(layout: Layout, block: Block, theirs: str | None) -> Iterator[Entry]:
    if theirs is None:
        return
    ours, (*maps, gamma) = f"attention{block.resolution}", layout.attention
    for name, suffix in zip("fghv", maps, strict=True):
        yield _conv((ours, name), f"{theirs}.{suffix}")._replace(bias=False)
    place, name = (ours, "gamma"), f"{theirs}.{gamma}"
    yield Plain("params", place, name, shape=layout.gamma_shape)


def _conv(ours: Path, theirs: str, colours: int | None = None) -> Normalised:
    """A convolution; axis `colours` of their weight, if any, goes from BGR to RGB."""

    def swapped(w: np.ndarray) -> np.ndarray:
        return w if colours is None else np.flip(w, colours)

    def inward(w: np.ndarray) -> np.ndarray:
        return swapped(w).transpose(2, 3, 1, 0)

    def outward(w: np.ndarray) -> np.ndarray:
        return swapped(w.transpose(3, 2, 0, 1))

    return Normalised(ours, theirs, inward, outward)


def _same(w: np.ndarray) -> np.ndarray:
    return w


def _transposed(w: np.ndarray) -> np.ndarray:
    return w.T


def _stem_inward(base: int, w: np.ndarray) -> np.ndarray:
    """[(c h w) z] to [z (h w c)]: our images are channels last."""
    w = w.reshape(-1, base, base, w.shape[1])
    return w.transpose(3, 1, 2, 0).reshape(w.shape[3], -1)


def _stem_outward(base: int, w: np.ndarray) -> np.ndarray:
    w = w.reshape(len(w), base, base, -1)
    return w.transpose(3, 1, 2, 0).reshape(-1, len(w))
