"""Files of an evaluation, results.json and card.md, and what they identify."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import sagan
from sagan.evaluation.card import Result, better, render_card
from sagan.metrics.interface import Baseline
from sagan.runtime import files

RESULTS, CARD, PLOT = "results.json", "card.md", "metrics.png"
_NUMBERS = ("std", "baseline", "baseline_std")  # of a row, besides its value
_OWN = "own_sha256"  # key of the digest of all the rest
_MOST_BYTES = 2**28  # 16 MB are not enough for 20,000 classes
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Versions of the packages that computed the numbers, and the device."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    devices = sorted({device.device_kind for device in jax.devices()})
    own = {"sagan": sagan.__version__}  # which may be on the path, not installed
    machine = {"python": platform.python_version(), "device": ", ".join(devices)}
    return own | packages | machine


def new_result(protocol: Mapping[str, Any], about: Mapping[str, Any]) -> Result:
    """An evaluation without numbers.

    Args:
      protocol: All choices that decide a number; equal protocols are comparable.
      about: Facts about the evaluated images; `what` is their name, which may change.
    """
    facts = {"protocol": dict(protocol), "about": dict(about), "versions": versions()}
    named = {k: v for k, v in about.items() if k != "what"}
    return {
        **facts,
        "protocol_sha256": _digest(protocol),
        "sha256": _digest(facts | {"about": named}),
        "made": {},
        "results": [],
        "notes": [],
    }


def note_made(result: Result, started: datetime.datetime, command: str) -> None:
    """Writes down when it was made, in how many seconds, and by which command.

    The seconds of all calls that computed a part are added up.
    """
    now = datetime.datetime.now(datetime.UTC)
    seconds = result["made"].get("seconds", 0) + (now - started).total_seconds()
    date = now.isoformat(timespec="seconds")
    made = {"date": date, "seconds": round(seconds, 1), "command": command}
    result["made"] = {k: v for k, v in made.items() if v}


def _digest(value: Any) -> str:
    """SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def add_rows(
    result: Result,
    variant: Mapping[str, str],
    values: Mapping[str, list[float]],
    baselines: Mapping[str, Baseline],
    samples: int,
) -> None:
    """Adds the rows of one variant: mean and spread of each number over the seeds."""
    for name, each in values.items():
        row: dict[str, Any] = {"metric": name, **variant}
        row |= {"value": float(np.mean(each)), "samples": samples}
        if direction := better(name):
            row["better"] = direction
        if len(each) > 1:
            row |= {"std": float(np.std(each, ddof=1)), "each": each}
        if name in baselines:
            facts = baselines[name]._asdict()
            row["baseline"] = facts.pop("value")
            row |= {f"baseline_{k}": v for k, v in facts.items() if v is not None}
        result["results"].append(row)


def to_json(result: Result) -> str:
    """The text of a results file: the result and a digest of it."""
    own = {_OWN: _digest(json.loads(json.dumps(result)))}
    return json.dumps(result | own, indent=1) + "\n"


def read_result(path: Path, *, sealed: bool = False) -> Result | None:
    """Reads a results file; None if there is none, or not as it was written.

    Files from before 0.2 have no digest of themselves; `sealed` ones must have it.
    """
    try:
        result = files.read_json(path, most=_MOST_BYTES)
    except (OSError, ValueError):
        return None
    known = isinstance(result, dict) and {"about", "results", "sha256"} <= set(result)
    own = result.pop(_OWN, None) if known else None
    if not known or (own is None and sealed) or own not in (None, _digest(result)):
        return None
    return result if isinstance(result["sha256"], str) else None


def read_results(folder: Path) -> tuple[list[Result], int]:
    """Evaluations of a run in ascending order of their steps, and how many are damaged.

    A damaged file is not JSON, or lacks what the tables need; nothing in it is trusted.

    Args:
      folder: The run's eval/.
    """
    paths = sorted(folder.glob(f"*/{RESULTS}"))
    results = [result for path in paths if (result := read_complete_result(path))]
    results.sort(key=lambda result: result["about"]["step"])
    return results, len(paths) - len(results)


def read_complete_result(path: Path) -> Result | None:
    """Reads an evaluation of a checkpoint; None if a table could not show it."""
    result = read_result(path)
    return result if result is not None and _is_complete(result) else None


def _is_complete(result: Result) -> bool:
    kinds = {"notes": list, "protocol": dict, "versions": dict, "protocol_sha256": str}
    kinds |= {"about": dict, "results": list}
    if not all(isinstance(result.get(key), kind) for key, kind in kinds.items()):
        return False
    step, rows = result["about"].get("step"), result["results"]
    has_step = type(step) is int and 0 <= step < 2**53
    return has_step and len(rows) > 0 and all(map(_is_row, rows))


def _is_row(row: Any) -> bool:
    if not (isinstance(row, dict) and isinstance(row.get("metric"), str)):
        return False
    numbers = [row.get("value"), *(row[k] for k in _NUMBERS if k in row)]
    if not all(map(_is_number, numbers)):
        return False
    return all(isinstance(row.get(name, ""), str) for name in ("weights", "batch_norm"))


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**1000)


def comparable(results: Iterable[Result], newest: Result) -> list[Result]:
    """Results of the same run whose numbers can be compared with the newest.

    Their protocols, configs and versions are equal.
    """

    def key(result: Result) -> tuple[Any, ...]:
        config = result["about"].get("config sha256")
        return result["protocol_sha256"], result["versions"], config

    return [result for result in results if key(result) == key(newest)]


def read_same_result(folder: Path, result: Result) -> Result | None:
    """The earlier result of the same state, protocol and versions, or None."""
    for path in (folder / RESULTS, _aside(folder, RESULTS, result)):
        before = read_result(path, sealed=True)
        if before and before["sha256"] == result["sha256"]:
            return before
    return None


def write_result(folder: Path, result: Result) -> None:
    """Writes results.json and card.md; renames those of another evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    newest = folder / RESULTS
    before = read_result(newest)
    if before is None and newest.exists():
        newest.rename(files.beside_damaged(newest))
    for name in (RESULTS, CARD):
        path = folder / name
        if before and before["sha256"] != result["sha256"] and path.exists():
            path.replace(_aside(folder, name, before))
        _aside(folder, name, result).unlink(missing_ok=True)
    files.write_whole(newest, to_json(result))
    files.write_whole(folder / CARD, render_card(result))


def _aside(folder: Path, name: str, result: Result) -> Path:
    stem, dot, suffix = name.partition(".")
    return folder / files.file_name(f"{stem}.{result['sha256'][:8]}{dot}{suffix}")
