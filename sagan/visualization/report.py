"""Writes one page about a run, or about several for comparison."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sagan.checkpoints.restore import OpenedRun, open_data, open_run
from sagan.config.schema import ConfigError
from sagan.runtime.files import make_place, write_whole
from sagan.runtime.progress import bar
from sagan.sampling.grid import class_titles, image_grid
from sagan.sampling.sampler import fixed_inputs
from sagan.visualization import run_record
from sagan.visualization.embedded import EmbeddedPicture, embed
from sagan.visualization.explorer import make_explorer
from sagan.visualization.report_page import ReportedRun, ShownSheet, render_page
from sagan.visualization.sheets import SHEETS

MOST_BYTES = 10_000_000  # of the file; the parts below leave room for curves and text
_EXPLORERS = {"g": 3_600_000, "d": 2_400_000}
_GRIDS, _SHEETS = 1_500_000, 1_500_000
_LOOKED_AT = 2000  # training images, for those of each class


def report(
    workdirs: Sequence[Path],
    *,
    out: Path | None = None,
    step: int | str | None = None,
    weights: str | None = None,
    data_path: str = "",
    seed: int = 0,
) -> str:
    """Writes report.html, one self-contained file; returns a line that says where.

    By default it lies in the workdir of a single run, else in the current folder; see
    restore.open_run for step, weights and data_path.

    Raises:
      ConfigError: There is no such run, checkpoint or average, or the page would be
        too large.
    """
    workdirs = list(dict.fromkeys(workdirs))
    folder = workdirs[0] if len(workdirs) == 1 else Path()
    out = out or folder / "report.html"
    make_place(out, is_file=True)
    opened = [open_run(workdir, step, weights, data_path) for workdir in workdirs]
    names = [workdir.resolve().name for workdir in workdirs]
    if len(set(names)) < len(names):
        names = [str(workdir) for workdir in workdirs]
    share = 1 / len(opened)
    runs = [
        gather_run(one, name, seed, share)
        for one, name in zip(opened, names, strict=True)
    ]
    size = write_page(runs, out)
    words = "; ".join(f"{run.name}: {run.opened.words}" for run in runs)
    return f"{words}: {out} ({size / 1e6:.1f} MB)"


def write_page(runs: Sequence[ReportedRun], out: Path) -> int:
    """Writes the page; returns its size in bytes.

    Raises:
      ConfigError: The page is too large.
    """
    text = render_page(runs)
    if (size := len(text.encode())) > MOST_BYTES:
        names = " ".join(run.name for run in runs)
        raise ConfigError(
            f"--workdir {names}: the page would have {size:,} bytes; must be"
            f" {MOST_BYTES:,} at most: fewer runs"
        )
    write_whole(out, text)
    return size


def gather_run(
    opened: OpenedRun, name: str, seed: int, share: float = 1.0
) -> ReportedRun:
    """Everything that the page shows of a run, in a share of the page's bytes."""
    record = run_record.read_record(opened.workdir, opened.config, name)
    most = int(share * _GRIDS / 2)
    grids = run_record.sample_grids(opened.workdir, most)
    grids[1:1] = _draw_reals(opened, record.class_names, most)
    explorers = [
        make_explorer(
            opened, player, record.class_names, seed=seed, budget=int(share * budget)
        )
        for player, budget in bar(_EXPLORERS.items(), f"{name}: attention")
    ]
    sheets = _draw_sheets(opened, seed, int(share * _SHEETS))
    return ReportedRun(opened, seed, record, grids, explorers, sheets)


def _draw_reals(
    opened: OpenedRun, class_names: Sequence[str], most: int
) -> list[EmbeddedPicture]:
    """A grid of training images like those of the samples; none if there are none."""
    _, y = fixed_inputs(opened.config)
    classes = opened.config.data.classes
    try:
        source = open_data(opened.workdir, opened.config)
        most_read = _LOOKED_AT if classes else len(y)
        some = np.linspace(0, len(source) - 1, min(len(source), most_read)).astype(int)
        if classes:
            labels = source.labels(some)
            chosen = [some[labels == k][: np.sum(y == k)] for k in np.unique(y)]
            some = np.concatenate(chosen)
        image, label = source.examples(some)
    except (ConfigError, OSError):  # the explorer of D says why
        return []
    titles = class_titles(classes, class_names)
    return [embed(image_grid(image, label, titles), "training images", most)]


def _draw_sheets(opened: OpenedRun, seed: int, budget: int) -> list[ShownSheet]:
    """Every sheet, or a note why it cannot be drawn."""
    shown = []
    for name, make_sheet in bar(SHEETS.items(), f"{opened.workdir.name}: sheets"):
        try:
            sheet = make_sheet(opened, seed=seed, classes=None)
        except (ConfigError, OSError) as error:
            shown.append(ShownSheet(name, None, [f"It cannot be drawn: {error}"]))
            continue
        picture = embed(sheet.picture, sheet.caption, budget // len(SHEETS))
        shown.append(ShownSheet(name, picture, list(sheet.notes)))
    return shown
