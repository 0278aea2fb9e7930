"""What a run left in its workdir for people, read without trusting any of it.

What cannot be read is left out, or becomes a note; only a missing run is an error.
"""

import base64
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sagan.checkpoints.workdir import class_names
from sagan.config.schema import Config
from sagan.data.source import flat, is_grey, opened_image
from sagan.evaluation import results

Row = dict[str, Any]
_LINE_MOST = 2**20  # characters of one line of a log
_PICTURE = re.compile(r"([A-Za-z0-9.-]+)_(\d{8,})\.png")
_KINDS = 4  # of weights whose pictures are shown


class Record(NamedTuple):
    """What there is beside the checkpoints.

    Attributes:
      metrics: the lines of metrics.jsonl, each with a "step"; values are floats.
      findings: the lines of monitor.jsonl, each with "step" and "message".
      results: evaluations comparable with the newest, by step.
      class_names: by label; empty if the run is unconditional or they are unknown.
      notes: what was left out.
    """

    metrics: list[dict[str, float]]
    findings: list[Row]
    results: list[results.Result]
    class_names: tuple[str, ...]
    notes: list[str]


class Picture(NamedTuple):
    """A picture as a data URI."""

    uri: str
    width: int
    height: int
    caption: str


def read_record(workdir: Path, config: Config) -> Record:
    """All but the pictures."""
    results, notes = _results(workdir)
    names = class_names(workdir)
    return Record(
        metrics=_metrics(workdir / "metrics.jsonl"),
        findings=[
            row
            for row in _lines(workdir / "monitor.jsonl")
            if isinstance(row.get("message"), str)
        ],
        results=results,
        class_names=tuple(names) if len(names) == config.data.classes else (),
        notes=notes,
    )


def _lines(path: Path) -> list[Row]:
    """The objects of a .jsonl file that have a step: not a line torn by a kill."""
    rows = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in iter(lambda: file.readline(_LINE_MOST), ""):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict) and _is_step(row.get("step")):
                    rows.append(row)
    except OSError:
        pass
    return rows


def _metrics(path: Path) -> list[dict[str, float]]:
    return [
        {name: v for name, value in row.items() if (v := _number(value)) is not None}
        for row in _lines(path)
    ]


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _number(value: Any) -> float | None:
    """A float; the writer has "nan", "inf" and "-inf" for those that are no JSON."""
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _results(workdir: Path) -> tuple[list[results.Result], list[str]]:
    """Evaluations by step, as many as are comparable with the newest."""
    paths = sorted(workdir.glob(f"eval/*/{results.RESULTS}"))
    found = [result for path in paths if (result := read_result(path)) is not None]
    sound = sorted(found, key=lambda result: result["about"]["step"])
    notes = []
    if broken := len(paths) - len(sound):
        notes.append(f"evaluations that cannot be read: {broken}")
    if not sound:
        return [], notes
    same = [result for result in sound if _protocol(result) == _protocol(sound[-1])]
    if others := len(sound) - len(same):
        notes.append(
            "evaluations of earlier steps by another protocol, config or version, not"
            f" shown: {others}"
        )
    return same, notes


def read_result(path: Path) -> results.Result | None:
    """An evaluation that results.result_table can show; None: there is none."""
    try:
        result = results.read_result(path)
    except RecursionError:
        return None
    return result if result is not None and _is_sound(result) else None


def _protocol(result: results.Result) -> Any:
    """What must be equal for numbers to be comparable over the steps of a run."""
    config = result["about"].get("config sha256")
    return result["protocol_sha256"], result["versions"], config


def _is_sound(result: results.Result) -> bool:
    """Whether results.result_table can show it."""
    about, rows = result["about"], result["results"]
    if not (isinstance(about, dict) and _is_step(about.get("step"))):
        return False
    if not (isinstance(rows, list) and all(map(_is_sound_row, rows)) and rows):
        return False
    notes, protocol = result.get("notes"), result.get("protocol")
    if not (isinstance(notes, list) and isinstance(protocol, dict)):
        return False
    versions, sha = result.get("versions"), result.get("protocol_sha256")
    return isinstance(versions, dict) and isinstance(sha, str)


def _is_sound_row(row: Any) -> bool:
    if not (isinstance(row, dict) and isinstance(row.get("metric"), str)):
        return False
    numbers = [row[name] for name in ("std", "baseline") if name in row]
    numbers.append(row.get("value"))
    if any(isinstance(n, str) or _number(n) is None for n in numbers):
        return False
    return all(isinstance(row.get(name, ""), str) for name in ("weights", "batch_norm"))


def pictures(workdir: Path, most: int) -> list[Picture]:
    """The newest sample grid of each kind of weights, averaged ones first.

    Args:
      workdir: of the run.
      most: bytes of all of them together.
    """
    newest: dict[str, tuple[int, Path]] = {}
    for path in sorted(workdir.glob("samples/*.png")):
        if match := _PICTURE.fullmatch(path.name):
            kind, step = match[1], int(match[2])
            newest[kind] = max(newest.get(kind, (-1, path)), (step, path))
    words = {"raw": "raw weights", "ema": "averaged weights"}
    found = []
    newest = dict(sorted(newest.items())[:_KINDS])
    for kind, (step, path) in newest.items():
        try:
            with path.open("rb") as stream, opened_image(stream) as opened:
                mode = "L" if is_grey(opened) else "RGB"
                pixels = np.asarray(flat(opened, mode), np.uint8)
        except Exception:  # Pillow raises nearly anything
            continue
        caption = f"{words.get(kind, kind)}, step {step}"
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        found.append(picture(pixels, caption, most // len(newest)))
    return found


def picture(
    pixels: UInt8[np.ndarray, "h w c"], caption: str, most: int | None = None
) -> Picture:
    """A picture as PNG; where that has more than `most` characters, as JPEG.

    If that has more too, it is made smaller.
    """
    grey = pixels.shape[-1] == 1
    image = Image.fromarray(pixels[..., 0] if grey else pixels)
    data, kind = _encoded(image, "PNG", optimize=True), "png"
    most = len(data) if most is None else most * 3 // 4  # of base64
    while len(data) > most and min(image.size) > 1:
        data, kind = _encoded(image, "JPEG", quality=88), "jpeg"
        if len(data) > most:
            factor = max(0.1, math.sqrt(most / len(data)) * 0.9)
            width, height = (max(1, int(side * factor)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(uri, *image.size, caption)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def labelled(class_names: tuple[str, ...], label: int) -> str:
    """The name of a class, else its number."""
    return class_names[label] if label < len(class_names) else str(label)


def variants(result: Mapping[str, Any]) -> list[tuple[str, dict[str, Row]]]:
    """The rows of every variant by metric, without those of single classes."""
    found: dict[str, dict[str, Row]] = {}
    for row in result["results"]:
        if "/" not in row["metric"]:
            words = [row[key] for key in ("weights", "batch_norm") if key in row]
            found.setdefault(", ".join(words) or "value", {})[row["metric"]] = row
    return list(found.items())
