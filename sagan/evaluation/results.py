"""Files of an evaluation: results.json and card.md, and tables and plots of them."""

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
from sagan.evaluation.baseline import Baseline
from sagan.runtime import files

Result = dict[str, Any]
RESULTS, CARD, PLOT = "results.json", "card.md", "metrics.png"
PER_CLASS_SHOWN = 10
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
      about: Facts about the evaluated images.
    """
    facts = {"protocol": dict(protocol), "about": dict(about), "versions": versions()}
    return {
        **facts,
        "protocol_sha256": _digest(protocol),
        "sha256": _digest(facts),
        "results": [],
        "notes": [],
    }


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
        if len(each) > 1:
            row |= {"std": float(np.std(each, ddof=1)), "each": each}
        if name in baselines:
            row["baseline"] = baselines[name].value
            row["baseline_samples"] = baselines[name].samples
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
    numbers = [row.get("value"), *(row[k] for k in ("std", "baseline") if k in row)]
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


def by_variant(result: Result) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows by variant (weights and batch statistics) and metric; no single classes."""
    variants: dict[str, dict[str, dict[str, Any]]] = {}
    for row in result["results"]:
        if "/" not in row["metric"]:
            variants.setdefault(_variant(row), {})[row["metric"]] = row
    return variants


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


def result_table(result: Result) -> list[list[str]]:
    """A header, and a row for each metric: its variants, and its baseline."""
    variants = by_variant(result)
    lines = [["metric", *variants, "real against real", "at"]]
    for name in dict.fromkeys(name for rows in variants.values() for name in rows):
        mine = [rows.get(name) for rows in variants.values()]
        some = next(row for row in mine if row)
        values = [value_text(row) if row else "" for row in mine]
        at = str(some.get("baseline_samples", ""))
        lines.append([name, *values, baseline_text(some), at])
    return lines


def text_table(lines: list[list[str]]) -> str:
    """Aligns a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown_table(lines: list[list[str]]) -> str:
    """Formats a table as Markdown."""
    head, *rest = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *rest])


def render_card(result: Result) -> str:
    """The numbers and everything that decides them, as Markdown."""
    facts = {**result["about"], "protocol sha256": result["protocol_sha256"]}
    parts = [f"# Evaluation of {facts['what']}", markdown_table(result_table(result))]
    parts.append(
        f"{result['protocol']['samples']} samples. *Real against real*: the same metric"
        " between two sets of real images, with as many as the last column says."
    )
    parts += [_list("Evaluated", facts), _list("Protocol", result["protocol"])]
    if classes := _worst_classes(result):
        parts.append(classes)
    if result["notes"]:
        parts.append("## Notes\n\n" + "\n".join(f"- {n}" for n in result["notes"]))
    parts.append(_list("Versions", result["versions"]))
    return "\n\n".join(parts) + "\n"


def plot_results(path: Path, results: Iterable[Result]) -> None:
    """Plots every metric over the step: a line for each variant, baselines dotted."""
    from matplotlib.figure import Figure

    curves: dict[str, dict[str, dict[int, float]]] = {}
    baselines: dict[str, float | None] = {}
    for result in sorted(results, key=lambda result: result["about"]["step"]):
        for variant, rows in by_variant(result).items():
            for name in (name for name in rows if "_std" not in name):
                curve = curves.setdefault(name, {}).setdefault(variant, {})
                curve[result["about"]["step"]] = rows[name]["value"]
                baselines.setdefault(name, rows[name].get("baseline"))
    columns, height = 3, -(-len(curves) // 3)
    figure = Figure(figsize=(4 * columns, 2.6 * height), layout="constrained")
    for i, (name, variants) in enumerate(curves.items(), 1):
        axes = figure.add_subplot(height, columns, i)
        for variant, curve in variants.items():
            axes.plot(*zip(*curve.items(), strict=True), marker="o", label=variant)
        if (y := baselines[name]) is not None:
            axes.axhline(y, color="grey", linestyle=":", label="real against real")
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("step", fontsize="small")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    with files.whole_file(path) as file:
        figure.savefig(file, format="png")


def _variant(row: Mapping[str, Any]) -> str:
    return ", ".join(row[k] for k in ("weights", "batch_norm") if k in row) or "value"


def value_text(row: Mapping[str, Any]) -> str:
    """A value for a table, with its spread if it has one."""
    spread = f" ± {row['std']:.2g}" if "std" in row else ""
    return f"{row['value']:.4g}{spread}"


def baseline_text(row: Mapping[str, Any]) -> str:
    """A baseline for a table, if there is one."""
    return f"{row['baseline']:.4g}" if "baseline" in row else ""


def _list(title: str, facts: Mapping[str, Any]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {k}: {v}" for k, v in facts.items())


def _worst_classes(result: Result) -> str:
    rows = [row for row in result["results"] if "/" in row["metric"]]
    if not rows:
        return ""
    first = _variant(rows[-1])  # the averaged weights come last
    mine = [row for row in rows if _variant(row) == first]
    mine.sort(key=lambda row: -row["value"])
    lines = [["class", "value", "real against real"]]
    for row in mine[:PER_CLASS_SHOWN]:
        lines.append(
            [row["metric"].partition("/")[2], value_text(row), baseline_text(row)]
        )
    name = mine[0]["metric"].partition("/")[0]
    return f"## Classes, the worst first: {name} ({first})\n\n{markdown_table(lines)}"
