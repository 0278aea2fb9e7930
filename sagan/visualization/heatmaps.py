"""Attention heat maps of every layer of a checkpoint, as in the paper's figure 5.

Source: arXiv:1805.08318, figure 5.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, UInt8
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

from sagan.checkpoints.restore import OpenedRun, open_data
from sagan.config.schema import Config, ConfigError
from sagan.data.source import Examples
from sagan.runtime.files import make_folder, write_arrays, write_whole
from sagan.runtime.progress import Report
from sagan.sampling.attention_maps import (
    AttentionGrid,
    attention_layers,
    uniform_bits,
    uniform_pixels,
)
from sagan.sampling.grid import png
from sagan.sampling.layout import Panel, Sheet, enlarge, enlargement, font
from sagan.visualization import attention_reading
from sagan.visualization.attention_reading import LayerSummary, Pixels
from sagan.visualization.checkpoint_images import label_names

# Okabe and Ito's palette, which colour-blind people can tell apart
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7")
SIDE = 96  # pixels of an enlarged image, at least
FRAME = 2  # pixels around a heat map
_BAR, _SPACE, _DOT = 6, 4, 6
NEGATIVE = (
    "a negative gamma is not a fault: its sign is shared with v, so (gamma, v) and"
    " (-gamma, -v) are the same layer"
)


def attend(
    opened: OpenedRun,
    labels: Int32[np.ndarray, " n"],
    grids: Mapping[str, Mapping[str, AttentionGrid]],
    *,
    seed: int,
    queries: Pixels | None,
    whole: bool,
    out: Path,
    report: Report = print,
) -> None:
    """Draws heat maps of a checkpoint's attention layers, and reports statistics.

    Writes a PNG for each layer, such as `g_attention32.png`, and `maps.npz` with
    `g/image`, `g/label` and the arrays of LayerSummary, such as `g/attention32/rows`.

    The generator is shown with samples, the discriminator with real images of the same
    labels. Queries are pixels (row, column), or None to choose them for each image and
    layer. `whole` also writes beta, as `g/attention32/beta`: 16 MiB an image for 64x64.

    Raises:
      ConfigError: There are too few real images of a class.
    """
    make_folder(out)
    report(f"{len(labels)} images of {opened.words}: {out}")
    arrays: dict[str, Any] = {}
    names = label_names(opened, labels, longest=14)
    shown = {
        "g": f"generated images, {opened.words}",
        "d": f"real images, step {opened.step}",
    }
    for player, layers in grids.items():
        gamma = attention_reading.player_gammas(opened, player)
        read = _read(opened, player, labels, seed)
        bar = tqdm(read, player, len(labels), leave=False, disable=None, unit="image")
        examples, summaries = attention_reading.summarise(
            iter(bar), layers, gamma, pixels=queries, whole=whole
        )
        arrays |= {f"{player}/image": examples.image, f"{player}/label": examples.label}
        for name, summary in summaries.items():
            place = f"{player}/{name}"
            panel = heat_panel(f"{place} in {shown[player]}", examples, names, summary)
            write_whole(out / f"{player}_{name}.png", png(Sheet([panel], "").picture))
            arrays |= {f"{place}/{k}": v for k, v in summary.arrays().items()}
            report(describe(place, summary))
    write_arrays(out / "maps.npz", arrays, compressed=True)


def _read(
    opened: OpenedRun, player: str, labels: Int32[np.ndarray, " n"], seed: int
) -> Iterator[attention_reading.ImageAttention]:
    if player == "g":
        return attention_reading.read_generator(opened, labels, seed=seed)
    source = open_data(opened.workdir, opened.config)
    examples = attention_reading.choose_real_images(
        source, labels, seed=seed, classes=opened.config.data.classes or 0
    )
    return attention_reading.read_discriminator(opened, examples)


def choose_layers(
    config: Config, names: Sequence[str] | None, *, real: bool
) -> dict[str, dict[str, AttentionGrid]]:
    """Layers of the generator, with `real` also of the discriminator, by player.

    Raises:
      ConfigError: There is no such layer, or none at all.
    """
    grids = {p: attention_layers(config, p) for p in ("gd" if real else "g")}
    known = sorted({name for layers in grids.values() for name in layers})
    if not known:
        which = "run" if real else "generator"
        raise ConfigError(f"nothing to draw: the {which} has no attention layer")
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--layers {name}: there are {', '.join(known)}")
    chosen = {
        player: {k: grid for k, grid in layers.items() if not names or k in names}
        for player, layers in grids.items()
    }
    return {player: layers for player, layers in chosen.items() if layers}


def describe(name: str, summary: LayerSummary) -> str:
    """A line with gamma, and mean entropy, distance and strength over the images."""
    grid, bits = summary.grid, summary.entropy_bits.mean()
    distance, strength = summary.distance_pixels.mean(), summary.strength.mean()
    return (
        f"{name}: gamma {summary.gamma:.3g};"
        f" entropy {bits:.2f} of {uniform_bits(grid):.2f} bits; distance"
        f" {distance:.1f} pixels, {uniform_pixels(grid).mean():.1f} if uniform;"
        f" |gamma v| is {strength:.3f} of |x|"
        + (f"\n  {NEGATIVE}" if summary.gamma < 0 else "")
    )


def heat_panel(
    title: str, examples: Examples, names: Sequence[str], summary: LayerSummary
) -> Panel:
    """A row for each image: the image, a heat map of each query, and the mean map.

    Every map has its own scale, from 0 to its largest share. The names of the images'
    classes are empty for an unconditional run.
    """
    grid, count = summary.grid, summary.queries.shape[1]
    bits, distance = uniform_bits(grid), uniform_pixels(grid).mean()
    lines = [
        title,
        f"{grid.queries}x{grid.queries} queries attend to {grid.keys}x{grid.keys} keys;"
        f" gamma = {summary.gamma:.3g}; uniform attention: {bits:.2f} bits,"
        f" {distance:.1f} px",
    ]
    cells, rows, captions = [], [], []
    for i, image in enumerate(examples.image):
        dots = dict(enumerate(summary.queries[i].tolist()))
        cells.append([_cell(enlarge(image, SIDE), grid, dots)])
        captions.append([""])
        for k, j in dots.items():
            cells[-1].append(_heat_cell(summary.rows[i, k], grid, {k: j}))
            numbers = (
                f"{summary.entropy_bits[i, j]:.2f} bits,"
                f" {summary.distance_pixels[i, j]:.1f} px"
            )
            captions[-1].append(f"0 to {summary.rows[i, k].max():.1%}\n{numbers}")
        cells[-1].append(_heat_cell(summary.mean[i], grid, {}))
        captions[-1].append(f"0 to {summary.mean[i].max():.1%}")
        means = [
            f"entropy {summary.entropy_bits[i].mean():.2f} bits",
            f"distance {summary.distance_pixels[i].mean():.1f} px",
            f"|gamma v| = {summary.strength[i]:.3f} |x|",
        ]
        rows.append("\n".join([*names[i : i + 1], *means]))
    return Panel(
        "\n".join(lines + [NEGATIVE] * (summary.gamma < 0)),
        np.array(cells),
        rows,
        ["image", *(f"query {k + 1}" for k in range(count)), "mean of all"],
        captions,
    )


def heat_map(
    row: Float[np.ndarray, " i"], grid: AttentionGrid
) -> UInt8[np.ndarray, "h w 3"]:
    """A row of beta over the enlarged image, brightest at its largest share.

    A key covers the 2x2 positions that it is pooled from, without smoothing. An odd
    last row or column of positions has no key and is black.
    """
    pixels = grid.size * enlargement(grid.size, SIDE)
    position = np.arange(pixels) * grid.queries // pixels
    shares = (row / row.max()).reshape(grid.keys, grid.keys)
    shares = np.pad(shares, (0, grid.queries % 2))
    return heat_colours(shares[np.ix_(position // 2, position // 2)])


def heat_colours(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours of numbers from 0 to 1, dark to bright."""
    return colormaps["magma"](values, bytes=True)[..., :3]


def _heat_cell(
    row: Float[np.ndarray, " i"], grid: AttentionGrid, dots: Mapping[int, int]
) -> UInt8[np.ndarray, "hh ww 3"]:
    """A heat map in its query's frame, with the colour scale below."""
    picture = heat_map(row, grid)
    frame = next((COLOURS[k % len(COLOURS)] for k in dots), "white")
    cell = _cell(picture, grid, dots, frame)
    scale = np.tile(np.linspace(0, 1, len(picture)), (_BAR, 1))
    cell[-_BAR:, FRAME:-FRAME] = heat_colours(scale)
    return cell


def _cell(
    picture: UInt8[np.ndarray, "h w 3"],
    grid: AttentionGrid,
    dots: Mapping[int, int],
    frame: str = "white",
) -> UInt8[np.ndarray, "hh ww 3"]:
    """A picture in a frame, with dots at queries (position by number), room below."""
    framed = ImageOps.expand(Image.fromarray(picture), FRAME, frame)
    cell = ImageOps.expand(framed, (0, 0, 0, _SPACE + _BAR), "white")
    pen = ImageDraw.Draw(cell)
    centres = grid.query_centres() * len(picture) / grid.size + FRAME
    for number, position in dots.items():
        y, x = centres[position]
        pen.circle((x, y), _DOT, COLOURS[number % len(COLOURS)], "black")
        pen.text((x, y), str(number + 1), "black", font(10), anchor="mm")
    return np.array(cell)
