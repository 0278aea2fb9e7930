"""Sheets: figures that show what a run's generator has learned.

To add one, add an entry to SHEETS: a function (opened, seed, classes) -> Sheet.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sagan.checkpoints.restore import OpenedRun, labels_to_draw, open_run
from sagan.config.schema import ConfigError
from sagan.runtime.files import file_name, make_folder, write_whole
from sagan.runtime.progress import Report, bar
from sagan.sampling.grid import png
from sagan.sampling.layout import Panel, Sheet
from sagan.visualization import checkpoint_images as drawing
from sagan.visualization.checkpoint_images import COLUMNS, Classes
from sagan.visualization.interpolation import draw_interpolation
from sagan.visualization.nearest_neighbours import draw_neighbours

_CHECKPOINTS = 16  # rows at most
_THRESHOLDS = (0.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.3)


def draw_classes(opened: OpenedRun, *, seed: int, classes: Classes) -> Sheet:
    """Rows are classes, columns latents; plain samples if unconditional."""
    shown = drawing.classes_to_show(opened, classes)
    if not len(shown):
        z = drawing.latents(opened, seed, COLUMNS**2)
        images = drawing.draw_rows(opened, z, np.zeros(len(z), np.int32))
        panel = Panel(f"{opened.words}: latents of seed {seed}", images)
        note = f"{drawing.UNCONDITIONAL}; every image has its own latent"
        return Sheet([panel], f"Samples of {opened.words}.", (note,))
    z = np.tile(drawing.latents(opened, seed, COLUMNS), (len(shown), 1))
    panel = Panel(
        f"{opened.words}: rows are classes, columns latents of seed {seed}",
        drawing.draw_rows(opened, z, shown.repeat(COLUMNS)),
        drawing.label_names(opened, shown),
    )
    caption = (
        f"Samples of {opened.words}: a row for each class, a column for each latent."
    )
    return Sheet([panel], caption)


def draw_truncation(opened: OpenedRun, *, seed: int, classes: Classes) -> Sheet:
    """Rows are truncation thresholds of the latents, columns sample numbers."""
    y = drawing.labels_in_turn(opened, classes)
    z = [drawing.latents(opened, seed, COLUMNS, most) for most in _THRESHOLDS]
    panel = Panel(
        f"{opened.words}: latents of seed {seed}, thresholds at the left",
        drawing.draw_rows(opened, np.concatenate(z), np.tile(y, len(z))),
        ["none" if not t else f"{t:g}" for t in _THRESHOLDS],
        drawing.label_names(opened, y, longest=8),
    )
    caption = (
        f"The same sample numbers of {opened.words} with latents truncated more and"
        " more: less variety, and at best higher quality."
    )
    return Sheet([panel], caption)


def draw_progress(opened: OpenedRun, *, seed: int, classes: Classes) -> Sheet:
    """Rows are the run's checkpoints, columns latents."""
    y = drawing.labels_in_turn(opened, classes)
    z = drawing.latents(opened, seed, COLUMNS)
    steps = opened.saved.steps("all")
    places = np.linspace(0, len(steps) - 1, min(len(steps), _CHECKPOINTS)).round()
    notes, rows, names = [], [], []
    if len(places) < len(steps):
        notes.append(f"{len(places)} of {len(steps)} checkpoints, evenly spaced")
    for step in [steps[int(place)] for place in places]:
        try:
            state, _ = opened.saved.load(step)
        except ConfigError as error:
            notes.append(f"skipped: {error}")
            continue
        rows.append(drawing.draw_rows(opened._replace(state=state, step=step), z, y))
        names.append(f"step {step}")
    if not rows:
        raise ConfigError(f"{opened.workdir}: no checkpoint can be read")
    title = f"{opened.weights}: latents of seed {seed} at every checkpoint"
    names_above = drawing.label_names(opened, y, longest=8)
    panel = Panel(title, np.concatenate(rows), names, names_above)
    caption = (
        f"The same latents at {len(rows)} checkpoints of the run ({opened.weights})."
    )
    return Sheet([panel], caption, tuple(notes))


SHEETS: dict[str, Callable[..., Sheet]] = {
    "classes": draw_classes,
    "interpolation": draw_interpolation,
    "truncation": draw_truncation,
    "neighbours": draw_neighbours,
    "progress": draw_progress,
}


def write_sheets(
    *,
    workdir: Path,
    only: Sequence[str] | None = None,
    step: int | str | None = None,
    weights: str | None = None,
    data_path: str = "",
    seed: int = 0,
    classes: Classes = None,
    out: Path | None = None,
    report: Report = tqdm.write,
) -> None:
    """Writes a PNG for each sheet, and a JSON file beside those with numbers.

    By default all sheets that can be drawn, of a few classes, into a folder of the
    workdir; see restore.open_run for step, weights and data_path.

    Raises:
      ConfigError: There is no such run, checkpoint, sheet or class, or a sheet of
        `only` cannot be drawn.
    """
    for name in only or ():
        if name not in SHEETS:
            raise ConfigError(f"--only {name}: unknown; there are {', '.join(SHEETS)}")
    opened = open_run(workdir, step, weights, data_path)
    labels_to_draw(opened.config, 0, classes)
    folder = out or workdir / "sheets" / f"step_{opened.step}"
    make_folder(folder)
    for name in bar(only or SHEETS, "sheets"):
        try:
            sheet = SHEETS[name](opened, seed=seed, classes=classes)
        except (ConfigError, OSError) as error:
            why = " ".join(str(error).split())
            if only:
                raise ConfigError(f"{name}: {why}") from error
            report(f"note: {name} is left out: {why}")
            continue
        report(f"{sheet.caption} {_write_sheet(folder, name, sheet)}")
        for note in sheet.notes:
            report(f"note: {name}: {note}")


def _write_sheet(folder: Path, name: str, sheet: Sheet) -> Path:
    """Writes NAME.png, and NAME.json if there are numbers; returns the PNG's path."""
    path = folder / file_name(f"{name}.png")
    write_whole(path, png(sheet.picture))
    if sheet.numbers is not None:
        numbers = json.dumps(sheet.numbers, indent=1) + "\n"
        write_whole(folder / file_name(f"{name}.json"), numbers)
    return path
