"""Where each position of an image looks: pictures and numbers of every attention layer.

The central figure of the paper (arXiv:1805.08318, figure 5), for any checkpoint.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from sagan import maps
from sagan.data import open_source
from sagan.export import labels_to_draw, open_run
from sagan.look import ablate as ablate_lib
from sagan.look.draw import LINE, Canvas, enlarged, enlargement, heat_map, save
from sagan.look.seen import (
    Looks,
    Pixels,
    gather,
    of_generated,
    of_real,
    position,
    real_examples,
)
from sagan.maps import Grid
from sagan.schema import Config, ConfigError
from sagan.source import Examples
from sagan.state import gammas
from sagan.workdir import naming, read_config

_GAP = 10
_FOOT = 11 + 2 * LINE
_BESIDE = 190  # pixels for the words at the right
NEGATIVE = (
    "gamma < 0 is no fault: its sign is shared with v, and (gamma, v) and (-gamma, -v)"
    " are the same layer"
)


def attend(
    *,
    workdir: Path,
    n: int,
    classes: Sequence[int] | None,
    seed: int,
    queries: Pixels | None,
    layers: Sequence[str] | None,
    real: bool,
    step: int | None,
    weights: str | None,
    whole: bool,
    ablate: bool,
    out: Path | None,
    report: Callable[[str], None] = print,
) -> None:
    """Draws the attention layers of a checkpoint, and reports what they do.

    Writes a PNG for each layer, such as `g_attention32.png`, and `maps.npz` with
    `g/image` and `g/label`, and for each layer the arrays of Looks, such as
    `g/attention32/rows`.

    Args:
      workdir: of the run.
      n: images.
      classes: labels to draw in turn; None: all.
      seed: of the latents, and of the choice of real images.
      queries: pixels (row, column) whose positions ask; None: chosen for each image.
      layers: names; None: all.
      real: also the discriminator's layers, in images that the run trains on.
      step: of the checkpoint; None: the newest good one.
      weights: of the generator: see export.open_run. The discriminator has but one.
      whole: also all rows, as `g/attention32/beta`: 16 MiB an image for 64x64.
      ablate: also draw and evaluate without attention: see ablate.py.
      out: a folder; None: WORKDIR/attend/step_N.
      report: takes the lines for the user.

    Raises:
      ConfigError: there is no such run, checkpoint, average, class, layer or pixel, or
        the real images are not there.
    """
    config = read_config(workdir)
    grids = _layers(workdir, config, "gd" if real else "g", layers)
    for pixel in queries or ():
        position(Grid(config.data.size, config.data.size), pixel)
    labels = labels_to_draw(config, n, classes)
    opened = open_run(workdir, step, weights)
    out = out or workdir / "attend" / f"step_{opened.step}"
    arrays: dict[str, Any] = {}
    negative = False
    report(f"{n} images of {opened.words}: {out}")
    for player, mine in grids.items():
        if player == "g":
            seen = of_generated(opened, labels, seed=seed)
            params = opened.variables["params"]
        else:
            known = config.data.classes or 0
            source = open_source(config)
            real_images = real_examples(source, labels, seed=seed, classes=known)
            seen, params = of_real(opened, real_images), opened.state.d.params
        seen = tqdm(seen, player, n, leave=False, disable=None, unit="image")
        examples, looks = gather(
            seen, mine, gammas(params), pixels=queries, whole=whole
        )
        arrays |= {f"{player}/image": examples.image, f"{player}/label": examples.label}
        for name, look in looks.items():
            title = f"{player}/{name} in {WHERE[player]}, {opened.words}"
            save(out / f"{player}_{name}.png", sheet(title, examples, look))
            fields = look._asdict().items()
            arrays |= {f"{player}/{name}/{k}": v for k, v in fields if v is not None}
            report(in_words(f"{player}/{name}", look))
            negative |= look.gamma < 0
    with naming(out / "maps.npz"):
        np.savez_compressed(out / "maps.npz", **arrays)
    if negative:
        report(NEGATIVE)
    if ablate:
        ablate_lib.ablate(opened, labels, seed=seed, out=out, report=report)


WHERE = {"g": "generated images", "d": "real images"}


def _layers(
    workdir: Path, config: Config, players: str, names: Sequence[str] | None
) -> dict[str, dict[str, Grid]]:
    """The layers by player and name, of those players that have any."""
    grids = {player: maps.attention_layers(config, player) for player in players}
    known = sorted({name for mine in grids.values() for name in mine})
    if not known:
        which = "generator" if players == "g" else "run"
        raise ConfigError(f"{workdir}: its {which} has no attention layer")
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--layers {name}: there are {', '.join(known)}")
    chosen = {
        player: {k: grid for k, grid in mine.items() if not names or k in names}
        for player, mine in grids.items()
    }
    return {player: mine for player, mine in chosen.items() if mine}


def in_words(name: str, looks: Looks) -> str:
    """One line: gamma, entropy, distance and strength, means over the images."""
    grid = looks.grid
    return (
        f"{name}: gamma {looks.gamma:.3g}; entropy {looks.entropy_bits.mean():.2f} of"
        f" {maps.uniform_bits(grid):.2f} bits; looks {looks.distance_pixels.mean():.1f}"
        f" pixels far, {maps.uniform_pixels(grid).mean():.1f} if everywhere alike;"
        f" |gamma v| is {looks.strength.mean():.3f} of |x|"
    )


def sheet(title: str, examples: Examples, looks: Looks) -> UInt8[np.ndarray, "h w 3"]:
    """A row for each image: it with its queries, a heat map of each, and the mean map.

    Every map has its own scale, from 0 to its largest share.
    """
    grid, count = looks.grid, looks.queries.shape[1]
    side = grid.size * enlargement(grid.size)
    step, below = side + _GAP, side + _FOOT + _GAP
    head = [title, *_explained(looks)]
    top = LINE * len(head) + _GAP
    width = _GAP + (count + 2) * step + _BESIDE
    canvas = Canvas(width, top + below * len(examples.image))
    for i, line in enumerate(head):
        canvas.words(_GAP, 4 + LINE * i, line)
    centres = grid.centres("queries") * enlargement(grid.size)
    for i, image in enumerate(examples.image):
        y = top + i * below
        canvas.picture(_GAP, y, enlarged(image))
        canvas.words(_GAP, y + side + 4, f"class {examples.label[i]}")
        for k, j in enumerate(looks.queries[i]):
            dot_y, dot_x = centres[j]
            x = _GAP + (k + 1) * step
            canvas.dot(_GAP + dot_x, y + dot_y, k)
            _draw_map(canvas, x, y, looks.rows[i, k], grid)
            canvas.frame(x, y, side, k)
            canvas.dot(x + dot_x, y + dot_y, k)
            bits, far = looks.entropy_bits[i, j], looks.distance_pixels[i, j]
            canvas.words(x, y + side + 11 + LINE, f"{bits:.2f} bits, {far:.1f} px")
        x = _GAP + (count + 1) * step
        _draw_map(canvas, x, y, looks.mean[i], grid)
        canvas.words(x, y + side + 11 + LINE, "mean of all rows")
        for k, line in enumerate(_said(looks, i)):
            canvas.words(x + step, y + LINE * k, line)
    return canvas.done()


def _draw_map(canvas: Canvas, x: int, y: int, row: np.ndarray, grid: Grid) -> None:
    side = grid.size * enlargement(grid.size)
    canvas.picture(x, y, heat_map(row, grid))
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
        f" {maps.uniform_bits(looks.grid):.2f} bits",
        f"distance {looks.distance_pixels[i].mean():.1f} px",
        f"(everywhere alike: {maps.uniform_pixels(looks.grid).mean():.1f} px)",
        f"|gamma v| = {looks.strength[i]:.3f} |x|",
    ]
