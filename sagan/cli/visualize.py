"""The commands that draw: attend, sheets, report."""

import dataclasses
import re
from pathlib import Path
from typing import Literal

from sagan.cli.arguments import (
    CheckpointOptions,
    DataPath,
    DrawingOptions,
    Workdirs,
    command,
)
from sagan.config.schema import ConfigError
from sagan.runtime import program_cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttendOptions(CheckpointOptions):
    """Options of `sagan attend`."""

    n: int = 8
    """Number of images."""
    queries: tuple[str, ...] = ("auto",)
    """Query pixels, each as ROW,COLUMN from the top left. auto: for each image and
    layer four whose attention differs."""
    layers: tuple[str, ...] = ()
    """Layers, such as attention32. Empty: all."""
    real: bool = False
    """Also draw the discriminator's layers, in real images."""
    whole: bool = False
    """Write all of beta to maps.npz."""
    ablate: Literal["gamma=0"] | None = None
    """Also draw and evaluate with each attention layer switched off."""
    data_path: DataPath = ""


@command(lambda: AttendOptions)
def attend_command(options: AttendOptions) -> None:
    """Draws attention maps of query pixels, in generated or real images."""
    from sagan.checkpoints.restore import labels_to_draw, open_run
    from sagan.checkpoints.workdir import read_config
    from sagan.visualization import ablation, attention_reading, heatmaps

    program_cache.keep_compiled()
    config = read_config(options.workdir)
    grids = heatmaps.choose_layers(config, options.layers, real=options.real)
    if options.ablate and "g" not in grids:
        raise ConfigError("--ablate gamma=0: the generator has no such attention layer")
    queries = None
    if options.queries != ("auto",):
        queries = list(map(_pixel, options.queries))
    attention_reading.check_pixels(config.data.size, queries or ())
    labels = labels_to_draw(config, options.n, options.with_labels()["classes"])
    opened = open_run(options.workdir, options.step, options.weights, options.data_path)
    out = options.out or options.workdir / "attend" / f"step_{opened.step}"
    common = {"seed": options.seed, "out": out}
    choices = {"queries": queries, "whole": options.whole}
    heatmaps.attend(opened, labels, grids, **choices, **common)
    if options.ablate:
        ablation.ablate(opened, labels, list(grids["g"]), **common)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SheetsOptions(CheckpointOptions):
    """Options of `sagan sheets`."""

    only: tuple[str, ...] = ()
    """Some of classes, interpolation, truncation, neighbours and progress. Empty: all
    that the run allows."""
    data_path: DataPath = ""


@command(lambda: SheetsOptions)
def sheets_command(options: SheetsOptions) -> None:
    """Draws sheets of images: classes, interpolation, truncation, neighbours."""
    from sagan.visualization.sheets import write_sheets

    program_cache.keep_compiled()
    write_sheets(**options.with_labels())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(DrawingOptions):
    """Options of `sagan report`."""

    workdirs: Workdirs
    """Workdirs of one or more runs; also as --workdir."""
    data_path: DataPath = ""
    out: Path | None = None
    """File. None: report.html, in the workdir of a single run."""


@command(lambda: ReportOptions)
def report_command(options: ReportOptions) -> None:
    """Writes an HTML page about one or more runs."""
    from sagan.visualization.report import report

    program_cache.keep_compiled()
    print(report(**vars(options)))


def _pixel(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"\d{1,6},\d{1,6}", text):
        allowed = "auto or ROW,COLUMN" if text != "auto" else "alone, or pixels only"
        raise ConfigError(f"--queries {text}: must be {allowed}")
    y, x = map(int, text.split(","))
    return y, x
