"""Where each position of an image looks: pictures and numbers of every attention layer.

The central figure of the paper (arXiv:1805.08318, figure 5), for any checkpoint.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int32, UInt8
from tqdm import tqdm

from sagan.checkpoints.restore import Opened
from sagan.config.schema import Config, ConfigError
from sagan.data.pipeline import open_source
from sagan.data.source import Examples
from sagan.runtime.files import make_folder, write_arrays
from sagan.sampling.attention_maps import (
    AttentionGrid,
    attention_layers,
    uniform_bits,
    uniform_pixels,
)
from sagan.state import gammas
from sagan.visualization.canvas import LINE, SIDE, Canvas, heat_map
from sagan.visualization.draw import names_of
from sagan.visualization.picture import enlarged, enlargement, save
from sagan.visualization.seen import (
    Looks,
    Pixels,
    Seen,
    gather,
    of_generated,
    of_real,
    real_examples,
)

GAP = 10
_FOOT = 11 + 2 * LINE
_BESIDE = 190  # pixels for the words at the right
NEGATIVE = (
    "gamma < 0 is no fault: its sign is shared with v, and (gamma, v) and (-gamma, -v)"
    " are the same layer"
)


def attend(
    opened: Opened,
    labels: Int32[np.ndarray, " n"],
    grids: Mapping[str, Mapping[str, AttentionGrid]],
    *,
    seed: int,
    queries: Pixels | None,
    whole: bool,
    out: Path,
    report: Callable[[str], None] = print,
) -> None:
    """Draws the attention layers of a checkpoint, and reports what they do.

    Writes a PNG for each layer, such as `g_attention32.png`, and `maps.npz` with
    `g/image`, `g/label` and the arrays of Looks, such as `g/attention32/rows`.

    Args:
      opened: the checkpoint.
      labels: of the images.
      grids: layers by player and name: see chosen_layers. The generator's look at
        samples, the discriminator's at real images of these labels.
      seed: of the latents, and of the choice of real images.
      queries: pixels (row, column) that ask; None: chosen for each image and layer.
      whole: also all of beta, as `g/attention32/beta`: 16 MiB an image for 64x64.
      out: a folder.
      report: takes the lines for the user.

    Raises:
      ConfigError: there are no such real images.
    """
    make_folder(out)
    report(f"{len(labels)} images of {opened.words}: {out}")
    arrays: dict[str, Any] = {}
    names = names_of(opened, labels, longest=14)
    for player, mine in grids.items():
        seen, gates = _seen(opened, player, labels, seed)
        examples, looks = gather(seen, mine, gates, pixels=queries, whole=whole)
        arrays |= {f"{player}/image": examples.image, f"{player}/label": examples.label}
        for name, look in looks.items():
            place = f"{player}/{name}"
            title = f"{place} in {WHERE[player].format(opened)}"
            save(out / f"{player}_{name}.png", sheet(title, examples, names, look))
            arrays |= {f"{place}/{k}": v for k, v in look.arrays().items()}
            report(in_words(place, look))
    write_arrays(out / "maps.npz", arrays, compressed=True)


def _seen(
    opened: Opened, player: str, labels: Int32[np.ndarray, " n"], seed: int
) -> tuple[Iterator[Seen], dict[str, Float[Array, ""]]]:
    """What the layers of a player do in images, and the gammas of these layers."""
    if player == "g":
        seen = of_generated(opened, labels, seed=seed)
        params = opened.variables["params"]
    else:
        source, classes = open_source(opened.config), opened.config.data.classes or 0
        examples = real_examples(source, labels, seed=seed, classes=classes)
        seen, params = of_real(opened, examples), opened.state.d.params
    bar = tqdm(seen, player, len(labels), leave=False, disable=None, unit="image")
    return iter(bar), gammas(params)


WHERE = {"g": "generated images, {0.words}", "d": "real images, step {0.step}"}


def chosen_layers(
    config: Config, names: Sequence[str] | None, *, real: bool
) -> dict[str, dict[str, AttentionGrid]]:
    """The generator's layers, and with `real` the discriminator's, by player and name.

    Args:
      config: of the run.
      names: of the layers; None: all.
      real: see above.

    Raises:
      ConfigError: there is no such layer, or none at all.
    """
    grids = {p: attention_layers(config, p) for p in ("gd" if real else "g")}
    known = sorted({name for mine in grids.values() for name in mine})
    if not known:
        which = "run" if real else "generator"
        raise ConfigError(f"nothing to see: the {which} has no attention layer")
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--layers {name}: there are {', '.join(known)}")
    chosen = {
        player: {k: grid for k, grid in mine.items() if not names or k in names}
        for player, mine in grids.items()
    }
    return {player: mine for player, mine in chosen.items() if mine}


def in_words(name: str, looks: Looks) -> str:
    """A line: gamma, entropy, distance and strength, means over the images."""
    grid = looks.grid
    return (
        f"{name}: gamma {looks.gamma:.3g}; entropy {looks.entropy_bits.mean():.2f} of"
        f" {uniform_bits(grid):.2f} bits; looks {looks.distance_pixels.mean():.1f}"
        f" pixels far, {uniform_pixels(grid).mean():.1f} if everywhere alike;"
        f" |gamma v| is {looks.strength.mean():.3f} of |x|"
        + (f"\n  {NEGATIVE}" if looks.gamma < 0 else "")
    )


def sheet(
    title: str, examples: Examples, names: Sequence[str], looks: Looks
) -> UInt8[np.ndarray, "h w 3"]:
    """A row for each image: it with its queries, a heat map of each, and the mean map.

    Every map has its own scale, from 0 to its largest share. The names are of the
    images' classes; empty: there are none.
    """
    grid, count = looks.grid, looks.queries.shape[1]
    times = enlargement(grid.size, SIDE)
    side = grid.size * times
    step, below = side + GAP, side + _FOOT + GAP
    head = [title, *_explained(looks)]
    top = LINE * len(head) + GAP
    width = GAP + (count + 2) * step + _BESIDE
    canvas = Canvas(width, top + below * len(examples.image))
    for i, line in enumerate(head):
        canvas.words(GAP, 4 + LINE * i, line)
    centres = grid.query_centres() * times
    for i, image in enumerate(examples.image):
        y = top + i * below
        canvas.picture(GAP, y, enlarged(image, times))
        canvas.words(GAP, y + side + 4, names[i] if names else "")
        for k, j in enumerate(looks.queries[i]):
            dot_y, dot_x = centres[j]
            x = GAP + (k + 1) * step
            canvas.dot(GAP + dot_x, y + dot_y, k)
            _draw_map(canvas, x, y, looks.rows[i, k], grid)
            canvas.frame(x, y, side, k)
            canvas.dot(x + dot_x, y + dot_y, k)
            bits, far = looks.entropy_bits[i, j], looks.distance_pixels[i, j]
            canvas.words(x, y + side + 11 + LINE, f"{bits:.2f} bits, {far:.1f} px")
        x = GAP + (count + 1) * step
        _draw_map(canvas, x, y, looks.mean[i], grid)
        canvas.words(x, y + side + 11 + LINE, "mean of all rows")
        for k, line in enumerate(_said(looks, i)):
            canvas.words(x + step, y + LINE * k, line)
    return canvas.done()


def _draw_map(
    canvas: Canvas, x: int, y: int, row: np.ndarray, grid: AttentionGrid
) -> None:
    heated = heat_map(row, grid)
    canvas.picture(x, y, heated)
    side = len(heated)
    canvas.colour_scale(x, y + side + 4, side, float(row.max()))


def _explained(looks: Looks) -> list[str]:
    grid = looks.grid
    lines = [
        f"{grid.queries}x{grid.queries} positions look at {grid.keys}x{grid.keys};"
        f" gamma = {looks.gamma:.3g}"
    ]
    if looks.gamma < 0:
        lines.append(NEGATIVE)
    return lines


def _said(looks: Looks, i: int) -> list[str]:
    return [
        "over all positions:",
        f"entropy {looks.entropy_bits[i].mean():.2f} of"
        f" {uniform_bits(looks.grid):.2f} bits",
        f"distance {looks.distance_pixels[i].mean():.1f} px",
        f"(everywhere alike: {uniform_pixels(looks.grid).mean():.1f} px)",
        f"|gamma v| = {looks.strength[i]:.3f} |x|",
    ]
