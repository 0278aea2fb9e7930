"""Sheets: pictures that show what the generator of a run has learned.

A new one is an entry of SHEETS: a function (opened, seed, classes) -> Sheet.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from sagan.checkpoints.restore import (
    Opened,
    labels_to_draw,
    open_run,
)
from sagan.config.schema import ConfigError
from sagan.runtime.files import file_name, make_folder, write_whole
from sagan.visualization import draw
from sagan.visualization.interpolation import interpolation
from sagan.visualization.nearest import neighbours
from sagan.visualization.picture import Panel, Sheet, save

_CHECKPOINTS = 16  # rows at most
_THRESHOLDS = (0.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.3)


class MakeSheet(Protocol):
    """What SHEETS holds."""

    def __call__(
        self, opened: Opened, *, seed: int, classes: Sequence[int] | None
    ) -> Sheet:
        """The sheet of a checkpoint.

        Args:
          opened: of export.open_run.
          seed: of the latents.
          classes: labels to show; None: a few that are spread over all.

        Raises:
          ConfigError: there is no such class, or not what this sheet needs.
        """
        ...


def classes_sheet(opened: Opened, *, seed: int, classes: Sequence[int] | None) -> Sheet:
    """Rows are classes, columns latents: what of an image the class decides."""
    shown = draw.classes_to_show(opened, classes)
    if not len(shown):
        return _plain(opened, seed)
    z = np.tile(draw.latents(opened, seed, draw.COLUMNS), (len(shown), 1))
    images = draw.images(opened, z, shown.repeat(draw.COLUMNS))
    panel = Panel(
        f"{opened.words}: rows are classes, columns latents of seed {seed}",
        draw.in_rows(images, draw.COLUMNS),
        draw.names_of(opened, shown),
    )
    caption = (
        f"Samples of {opened.words}: each row is a class, each column one latent in all"
        " classes."
    )
    return Sheet([panel], caption)


def _plain(opened: Opened, seed: int) -> Sheet:
    z = draw.latents(opened, seed, draw.COLUMNS**2)
    images = draw.images(opened, z, np.zeros(len(z), np.int32))
    title = f"{opened.words}: latents of seed {seed}"
    panel = Panel(title, draw.in_rows(images, draw.COLUMNS))
    note = f"{draw.UNCONDITIONAL}; every image is of another latent"
    return Sheet([panel], f"Samples of {opened.words}.", (note,))


def truncation(opened: Opened, *, seed: int, classes: Sequence[int] | None) -> Sheet:
    """Rows are thresholds of the latents, columns sample numbers."""
    y = draw.in_turn(opened, classes)
    z = [draw.latents(opened, seed, draw.COLUMNS, most) for most in _THRESHOLDS]
    images = draw.images(opened, np.concatenate(z), np.tile(y, len(z)))
    caption = (
        f"The same sample numbers of {opened.words} with latents truncated harder and"
        " harder: less variety, and at best more quality."
    )
    title = f"{opened.words}: latents truncated at the number at the left, seed {seed}"
    names = ["none" if not t else f"{t:g}" for t in _THRESHOLDS]
    rows = draw.in_rows(images, draw.COLUMNS)
    panel = Panel(title, rows, names, draw.names_of(opened, y, longest=8))
    return Sheet([panel], caption)


def progress(opened: Opened, *, seed: int, classes: Sequence[int] | None) -> Sheet:
    """Rows are the checkpoints of the run, columns latents."""
    y, z = draw.in_turn(opened, classes), draw.latents(opened, seed, draw.COLUMNS)
    steps = opened.saved.steps("all")
    places = np.linspace(0, len(steps) - 1, min(len(steps), _CHECKPOINTS)).round()
    chosen = [steps[int(place)] for place in places]
    notes = []
    if len(chosen) < len(steps):
        notes.append(f"{len(chosen)} of {len(steps)} checkpoints, evenly chosen")
    rows, names = [], []
    for step in chosen:
        try:
            state, _ = opened.saved.load(step)
        except ConfigError as error:
            notes.append(f"passed over: {error}")
            continue
        rows.append(draw.images(opened._replace(state=state, step=step), z, y))
        names.append(f"step {step}")
    if not rows:
        raise ConfigError(f"{opened.workdir}: no checkpoint is good")
    title = f"{opened.weights}: latents of seed {seed} at every checkpoint"
    caption = (
        f"The same latents at {len(rows)} checkpoints of the run ({opened.weights})."
    )
    panel = Panel(title, np.stack(rows), names, draw.names_of(opened, y, longest=8))
    return Sheet([panel], caption, tuple(notes))


SHEETS: dict[str, MakeSheet] = {
    "classes": classes_sheet,
    "interpolation": interpolation,
    "truncation": truncation,
    "neighbours": neighbours,
    "progress": progress,
}


def sheets(
    *,
    workdir: Path,
    only: Sequence[str] | None = None,
    step: int | None = None,
    weights: str | None = None,
    seed: int = 0,
    classes: Sequence[int] | None = None,
    out: Path | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Writes a PNG for each sheet, and a JSON file beside those with numbers.

    Args:
      workdir: of the run, which may be going on.
      only: names in SHEETS; None: all that can be made.
      step: of the checkpoint; None: the newest good one.
      weights: see export.open_run.
      seed: of the latents.
      classes: labels to show; None: a few that are spread over all.
      out: a folder; None: one of the workdir.
      report: takes the lines for the user.

    Raises:
      ConfigError: there is no such run, checkpoint, sheet or class, or a sheet of
        `only` cannot be made.
    """
    for name in only or ():
        if name not in SHEETS:
            raise ConfigError(f"--only {name}: unknown; there are {', '.join(SHEETS)}")
    opened = open_run(workdir, step, weights)
    labels_to_draw(opened.config, 0, classes)
    folder = out or workdir / "sheets" / f"step_{opened.step}"
    for name in only or SHEETS:
        try:
            sheet = SHEETS[name](opened, seed=seed, classes=classes)
        except (ConfigError, OSError) as error:
            why = " ".join(str(error).split())
            if only:
                raise ConfigError(f"{name}: {why}") from error
            report(f"note: {name} is left out: {why}")
            continue
        report(f"{sheet.caption} {write(folder, name, sheet)}")
        for note in sheet.notes:
            report(f"note: {name}: {note}")


def write(folder: Path, name: str, sheet: Sheet) -> Path:
    """Writes NAME.png, and NAME.json if there are numbers; returns the picture's path.

    Raises:
      ConfigError: the folder cannot be one.
    """
    make_folder(folder)
    path = folder / file_name(f"{name}.png")
    save(path, sheet.picture)
    if sheet.numbers is not None:
        numbers = json.dumps(sheet.numbers, indent=1) + "\n"
        write_whole(folder / file_name(f"{name}.json"), numbers)
    return path
