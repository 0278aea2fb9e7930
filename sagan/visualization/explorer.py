"""Data of the attention explorer of a page: rows of beta, small enough to embed.

explorer.js decodes and shows them.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from sagan.checkpoints.restore import OpenedRun, labels_to_draw, open_data
from sagan.config.schema import ConfigError
from sagan.runtime.progress import printable
from sagan.sampling.attention_maps import (
    AttentionGrid,
    LayerAttention,
    attention_layers,
    distance_pixels,
    entropy_bits,
    uniform_bits,
    uniform_pixels,
)
from sagan.visualization.attention_reading import (
    ImageAttention,
    player_gammas,
    read_discriminator,
    read_generator,
)
from sagan.visualization.embedded import embed

MOST_QUERIES, MOST_KEYS = 32, 16  # along each side
MOST_IMAGES = {"g": 10, "d": 6}
PLAYERS = {"g": "The generator", "d": "The discriminator"}
_NUMBERS = ("top", "entropy", "distance", "largest")
Json = dict[str, Any]
_entropy = jax.jit(entropy_bits)


class Explorer(NamedTuple):
    """One network of a run in a few images, or a note why it is not shown.

    Attributes:
      layers: The layer_facts of each layer.
      images: The image_facts of each image.
    """

    player: str
    layers: list[Json]
    images: list[Json]
    note: str = ""


class CoarseGrid(NamedTuple):
    """The positions of a layer that are embedded.

    Attributes:
      stride: Every stride-th query is embedded, along each side.
      side: Number of embedded queries along each side.
      block: Number of keys of a cell along each side; the last may have fewer.
      cells: Number of cells of keys along each side.
      rows: Positions j of the embedded queries.
    """

    stride: int
    side: int
    block: int
    cells: int
    rows: Int[np.ndarray, " queries"]

    @property
    def nbytes(self) -> int:
        """Size of one image's rows in base64."""
        queries, cells = self.side**2, self.cells**2
        return (queries * (cells + 4 * len(_NUMBERS)) + 2) * 4 // 3


def coarsen(grid: AttentionGrid) -> CoarseGrid:
    """Leaves out queries and sums keys in square cells, so that few remain."""
    stride, block = -(-grid.queries // MOST_QUERIES), -(-grid.keys // MOST_KEYS)
    along = np.arange(0, grid.queries, stride)
    rows = (along[:, None] * grid.queries + along).ravel()
    return CoarseGrid(stride, len(along), block, -(-grid.keys // block), rows)


def make_explorer(
    opened: OpenedRun,
    player: str,
    class_names: Sequence[str],
    *,
    seed: int,
    budget: int,
) -> Explorer:
    """The explorer of a network with as many images as fit into `budget` bytes.

    The generator is shown with samples 0, 1, ... of a seed, the discriminator with real
    images. Unknown class names are empty.
    """
    name, grids = PLAYERS[player], attention_layers(opened.config, player)
    if not grids:
        return Explorer(player, [], [], f"{name} has no attention layer.")
    n = count_images(grids, MOST_IMAGES[player], budget)
    if n < 1:
        note = f"{name}: no image fits into {budget:,} bytes of this page."
        return Explorer(player, [], [], note)
    conditional, images = bool(opened.config.data.classes), []
    try:
        for read in _read(opened, player, seed, n):
            known = read.label < len(class_names)
            label = printable(class_names[read.label]) if known else str(read.label)
            packed = [pack_layer(read.layers[k], grid) for k, grid in grids.items()]
            images.append(
                image_facts(
                    read.image, label if conditional else "", packed, read.logit
                )
            )
    except ConfigError as error:
        return Explorer(player, [], [], f"{name} cannot be shown: {error}")
    gamma = player_gammas(opened, player)
    layers = [layer_facts(k, grid, float(gamma[k])) for k, grid in grids.items()]
    return Explorer(player, layers, images)


def _read(
    opened: OpenedRun, player: str, seed: int, n: int
) -> Iterator[ImageAttention]:
    if player == "g":
        labels = labels_to_draw(opened.config, n, None)
        return read_generator(opened, labels, seed=seed)
    source = open_data(opened.workdir, opened.config)
    chosen = np.linspace(0, len(source) - 1, min(n, len(source))).astype(int)
    return read_discriminator(opened, source.examples(chosen))


def count_images(grids: Mapping[str, AttentionGrid], most: int, budget: int) -> int:
    """The number of images that fit into `budget` bytes, at most `most`."""
    size = max(grid.size for grid in grids.values())
    each = size**2 * 4 + sum(coarsen(grid).nbytes for grid in grids.values())
    return min(most, budget // each)


def layer_facts(name: str, grid: AttentionGrid, gamma: float) -> Json:
    """The values of a layer that are the same for all images."""
    coarse = coarsen(grid)
    return {
        "name": name,
        "queries": grid.queries,
        "keys": grid.keys,
        **{k: v for k, v in coarse._asdict().items() if k != "rows"},
        "gamma": gamma,
        "gamma_text": f"{gamma:.3f}".replace("-", "−"),
        "uniform_bits": uniform_bits(grid),
        "uniform_share": 1 / grid.keys**2,
        "uniform_pixels": _base64(np.asarray(uniform_pixels(grid))[coarse.rows]),
    }


def image_facts(
    pixels: UInt8[np.ndarray, "h w c"],
    label: str,
    layers: list[Json],
    logit: float | None = None,
) -> Json:
    """One of the images of an Explorer."""
    uri = embed(pixels, label).uri
    return {"label": label, "picture": uri, "layers": layers, "logit": logit}


def pack_layer(layer: LayerAttention, grid: AttentionGrid) -> Json:
    """One layer in one image.

    `beta` has a byte for each cell of each embedded query: its share, divided by the
    row's largest cell `top`, times 255. Entropy, distance and the largest share are
    computed from the full row, before summing and rounding.
    """
    coarse = coarsen(grid)
    beta = np.asarray(layer.beta)[coarse.rows].astype(np.float32)
    cells = beta.reshape(-1, grid.keys, grid.keys)
    for axis in (1, 2):
        starts = np.arange(0, grid.keys, coarse.block)
        cells = np.add.reduceat(cells, starts, axis=axis)
    cells = cells.reshape(len(beta), -1)
    top = cells.max(axis=1)
    levels = np.rint(cells / np.maximum(top, 1e-30)[:, None] * 255)
    numbers = {
        "top": top,
        "entropy": _entropy(beta),
        "distance": np.asarray(distance_pixels(layer.beta, grid))[coarse.rows],
        "largest": beta.max(axis=1),
    }
    encoded = {name: _base64(values) for name, values in numbers.items()}
    strength = float(layer.strength)
    return {"strength": strength, "beta": _base64(levels, np.uint8), **encoded}


def unpack(text: str) -> Float[np.ndarray, " n"]:
    """Numbers from base64."""
    return np.frombuffer(base64.b64decode(text), "<f4")


def _base64(values: Any, dtype: Any = "<f4") -> str:
    return base64.b64encode(np.asarray(values).astype(dtype).tobytes()).decode()


def overview(explorers: Sequence[Explorer]) -> list[list[str]]:
    """A table of means over positions and images; the first row is its head."""
    lines = [["layer", "positions", "gamma", "strength", "entropy", "distance"]]
    for explorer in explorers:
        player = PLAYERS[explorer.player].removeprefix("The ")
        for number, layer in enumerate(explorer.layers):
            mine = [image["layers"][number] for image in explorer.images]
            entropy, distance = (
                np.mean([unpack(one[name]) for one in mine])
                for name in ("entropy", "distance")
            )
            strength = np.mean([one["strength"] for one in mine])
            pixels = unpack(layer["uniform_pixels"]).mean()
            lines.append(
                [
                    f"{player}, {layer['name']}",
                    f"{layer['queries']}×{layer['queries']}",
                    layer["gamma_text"],
                    f"{strength:.3f}",
                    f"{entropy:.2f} of {layer['uniform_bits']:.2f} bits",
                    f"{distance:.1f} px (uniform {pixels:.1f})",
                ]
            )
    return lines
