"""What an evaluation leaves behind: results.json, card.md, a table, a plot."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sagan.evaluation.baseline import Floor
from sagan.runtime.files import file_name, write_whole

Result = dict[str, Any]
RESULTS, CARD, PLOT = "results.json", "card.md", "metrics.png"
PER_CLASS_SHOWN = 10
_PACKAGES = ("sagan", "jax", "jaxlib", "flax", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Of what computed the numbers, and on which device."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    devices = sorted({device.device_kind for device in jax.devices()})
    return {**found, "python": platform.python_version(), "device": ", ".join(devices)}


def sha256(text: str) -> str:
    """In hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def new(protocol: Mapping[str, Any], about: Mapping[str, Any]) -> Result:
    """An evaluation without numbers.

    Args:
      protocol: every choice that decides a number; those of equal ones are comparable.
      about: what was evaluated.
    """
    facts = {"protocol": dict(protocol), "about": dict(about), "versions": versions()}
    return {
        **facts,
        "protocol_sha256": sha256(json.dumps(protocol, sort_keys=True)),
        "sha256": sha256(json.dumps(facts, sort_keys=True)),
        "results": [],
        "notes": [],
    }


def add(
    result: Result,
    variant: Mapping[str, str],
    values: Mapping[str, list[float]],
    floors: Mapping[str, Floor],
    samples: int,
) -> None:
    """Adds the rows of one variant: each number's mean and spread over the seeds."""
    for name, each in values.items():
        row: dict[str, Any] = {"metric": name, **variant}
        row |= {"value": float(np.mean(each)), "samples": samples}
        if len(each) > 1:
            row |= {"std": float(np.std(each, ddof=1)), "each": each}
        if name in floors:
            row["floor"] = floors[name].value
            row["floor_samples"] = floors[name].samples
        result["results"].append(row)


def read(path: Path) -> Result | None:
    """A result that was written; None where there is none that can be read."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(result, dict) and {"about", "results", "sha256"} <= set(result)
    return result if known and isinstance(result["sha256"], str) else None


def read_same(folder: Path, result: Result) -> Result | None:
    """What was written there of the same things by the same protocol and versions."""
    for path in (folder / RESULTS, _aside(folder, RESULTS, result)):
        before = read(path)
        if before and before["sha256"] == result["sha256"]:
            return before
    return None


def write(folder: Path, result: Result) -> None:
    """Writes results.json and card.md; those of another evaluation are renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    before = read(folder / RESULTS)
    for name in (RESULTS, CARD):
        path = folder / name
        if before and before["sha256"] != result["sha256"] and path.exists():
            path.replace(_aside(folder, name, before))
        _aside(folder, name, result).unlink(missing_ok=True)
    write_whole(folder / RESULTS, json.dumps(result, indent=1) + "\n")
    write_whole(folder / CARD, card(result))


def _aside(folder: Path, name: str, result: Result) -> Path:
    stem, dot, suffix = name.partition(".")
    return folder / file_name(f"{stem}.{result['sha256'][:8]}{dot}{suffix}")


def table(result: Result) -> list[list[str]]:
    """A head, and a row for each metric: its variants, and its floor."""
    rows = [row for row in result["results"] if "/" not in row["metric"]]
    variants = list(dict.fromkeys(map(_variant, rows)))
    lines = [["metric", *variants, "real against real", "at"]]
    for name in dict.fromkeys(row["metric"] for row in rows):
        mine = {_variant(row): row for row in rows if row["metric"] == name}
        some = next(iter(mine.values()))
        values = [_value(mine[v]) if v in mine else "" for v in variants]
        floor = f"{some['floor']:.4g}" if "floor" in some else ""
        lines.append([name, *values, floor, str(some.get("floor_samples", ""))])
    return lines


def text(lines: list[list[str]]) -> str:
    """A table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(lines: list[list[str]]) -> str:
    """A table for Markdown."""
    head, *rest = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *rest])


def card(result: Result) -> str:
    """The numbers with everything that decides them, in Markdown."""
    facts = {**result["about"], "protocol sha256": result["protocol_sha256"]}
    parts = [f"# Evaluation of {facts['what']}", markdown(table(result))]
    parts.append(
        f"Of {result['protocol']['samples']} samples. *Real against real*: reals in the"
        " place of the samples, as many as the last column says."
    )
    parts += [_list("Evaluated", facts), _list("Protocol", result["protocol"])]
    if classes := _worst_classes(result):
        parts.append(classes)
    if result["notes"]:
        parts.append("## Notes\n\n" + "\n".join(f"- {n}" for n in result["notes"]))
    parts.append(_list("Versions", result["versions"]))
    return "\n\n".join(parts) + "\n"


def plot(path: Path, results: Iterable[Result]) -> None:
    """Draws every metric over the step, a line for each variant; the floor dotted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ordered = sorted(results, key=lambda result: result["about"]["step"])
    rows = [(r["about"]["step"], row) for r in ordered for row in r["results"]]
    rows = [(step, row) for step, row in rows if not _is_detail(row["metric"])]
    names = list(dict.fromkeys(row["metric"] for _, row in rows))
    columns = 3
    height = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * height), layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(height, columns, i + 1)
        mine = [(step, row) for step, row in rows if row["metric"] == name]
        for variant in dict.fromkeys(_variant(row) for _, row in mine):
            points = [(s, row["value"]) for s, row in mine if _variant(row) == variant]
            axes.plot(*zip(*points, strict=True), marker="o", label=variant)
        if "floor" in mine[0][1]:
            floor = mine[0][1]["floor"]
            axes.axhline(floor, color="grey", linestyle=":", label="real against real")
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("step", fontsize="small")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    FigureCanvasAgg(figure).print_png(str(path))


def _is_detail(metric: str) -> bool:
    """A class's number, or a spread."""
    return "/" in metric or "_std" in metric


def _variant(row: Mapping[str, Any]) -> str:
    return ", ".join(row[k] for k in ("weights", "batch_norm") if k in row) or "value"


def _value(row: Mapping[str, Any]) -> str:
    spread = f" ± {row['std']:.2g}" if "std" in row else ""
    return f"{row['value']:.4g}{spread}"


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
        floor = f"{row['floor']:.4g}" if "floor" in row else ""
        lines.append([row["metric"].partition("/")[2], _value(row), floor])
    name = mine[0]["metric"].partition("/")[0]
    return f"## Classes, the worst first: {name} ({first})\n\n{markdown(lines)}"
