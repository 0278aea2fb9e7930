"""Reads a run's logs, evaluations and sample grids, without trusting any file.

Unreadable files are left out or become a note; only a missing run is an error.
"""

import contextlib
import datetime
import re
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from sagan.checkpoints.workdir import class_names
from sagan.config.schema import Config
from sagan.data.images import decode_whole
from sagan.evaluation import results
from sagan.runtime.files import open_regular, parse_row
from sagan.visualization.embedded import EmbeddedPicture, embed

Row = dict[str, Any]
_LINE_MOST = 2**20  # bytes of one line of a log
_SAMPLES = re.compile(r"([A-Za-z0-9.-]+)_(\d{8,})\.png")
_KINDS = 4  # kinds of weights whose sample grids are shown, at most


class RunRecord(NamedTuple):
    """A run's config, and the files of its workdir beside the checkpoints.

    Attributes:
      name: The run's name, unique on a page.
      metrics: Lines of metrics.jsonl, each with a "step"; values are floats.
      findings: Lines of monitor.jsonl, each with "step" and "message".
      results: Evaluations comparable with the newest, by step.
      class_names: Class names by label; empty if unconditional or unknown.
      notes: Remarks about what was left out.
    """

    name: str
    config: Config
    metrics: list[dict[str, float]]
    findings: list[Row]
    results: list[results.Result]
    class_names: tuple[str, ...]
    notes: list[str]


def read_record(workdir: Path, config: Config, name: str = "") -> RunRecord:
    """Reads everything but the pictures."""
    evaluations, broken = results.read_results(workdir / "eval")
    same = results.comparable(evaluations, evaluations[-1]) if evaluations else []
    notes = []
    if broken:
        notes.append(f"evaluations that cannot be read: {broken}")
    if others := len(evaluations) - len(same):
        notes.append(
            "evaluations of earlier steps with another protocol, config or version,"
            f" not shown: {others}"
        )
    names, findings = class_names(workdir), _lines(workdir / "monitor.jsonl")
    return RunRecord(
        name=name,
        config=config,
        metrics=_metrics(workdir / "metrics.jsonl"),
        findings=[row for row in findings if isinstance(row.get("message"), str)],
        results=same,
        class_names=tuple(names) if len(names) == config.data.classes else (),
        notes=notes,
    )


def run_times(record: RunRecord) -> dict[str, str]:
    """Duration of a run with its pauses, and the day and time of its newest line."""
    last = record.metrics[-1] if record.metrics else {}
    with contextlib.suppress(KeyError, ValueError, OverflowError, OSError):  # damaged
        until = datetime.datetime.fromtimestamp(last["time/unix_s"])
        duration = tqdm.format_interval(last["time/elapsed_s"])
        return {"duration": duration, "date": until.isoformat(" ", "minutes")}
    return {}


def _lines(path: Path) -> list[Row]:
    """Objects of a .jsonl file that have a step; lines torn by a kill are skipped."""
    rows = []
    with contextlib.suppress(OSError), open_regular(path) as file:
        for line in iter(lambda: file.readline(_LINE_MOST), b""):
            if row := parse_row(line):
                rows.append(row)
    return rows


def _metrics(path: Path) -> list[dict[str, float]]:
    return [
        {name: v for name, value in row.items() if (v := _number(value)) is not None}
        for row in _lines(path)
    ]


def _number(value: Any) -> float | None:
    """A float; the logger writes NaN and infinities, which JSON lacks, as strings."""
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def sample_grids(workdir: Path, most: int) -> list[EmbeddedPicture]:
    """The newest sample grid of each kind of weights, averages first.

    All of them together have `most` characters at most.
    """
    newest: dict[str, tuple[int, Path]] = {}
    for path in sorted(workdir.glob("samples/*.png")):
        if path.is_file() and (match := _SAMPLES.fullmatch(path.name)):
            kind, step = match[1], int(match[2])
            newest[kind] = max(newest.get(kind, (-1, path)), (step, path))
    words = {"raw": "raw weights", "ema": "averaged weights"}
    newest, grids = dict(sorted(newest.items())[:_KINDS]), []
    for kind, (step, path) in newest.items():
        try:
            pixels = decode_whole(str(path))
        except Exception:  # Pillow raises nearly anything
            continue
        caption = f"{words.get(kind, kind)}, step {step}"
        grids.append(embed(pixels, caption, most // len(newest)))
    return grids
