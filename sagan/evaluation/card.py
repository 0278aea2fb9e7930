"""An evaluation for a reader: its tables, its card and its plot."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sagan.metrics import METRICS
from sagan.metrics.interface import UPPER, is_spread
from sagan.runtime import files

Result = dict[str, Any]
Rows = dict[str, dict[str, Any]]
CLASSES_SHOWN = 10
_HEADLINE = 5  # metrics
_ARROWS = {"lower": "↓", "higher": "↑", "": ""}
_OF_CLASSES = ("if", "accuracy", "improved_recall")  # the first one there ranks them
_EXPLAINED = {
    "baseline": "*Real against real*: real images in place of the samples; *at*: for"
    " how many samples and real images the number holds (of one class for `ifid`). ± is"
    " the deviation over draws of the real images.",
    "estimate": "For distances it is an estimate of what a perfect generator would get"
    " with as many images as were compared here.",
    "upper": "≤: with fewer images than were compared, and so too large; they are too"
    " few for the features, or of other class proportions, for an estimate.",
    "measured": "Where *at* has fewer images than were compared, it is what these get.",
    "kid": "With fixed class proportions KID is biased slightly downwards, below 0 for"
    " a perfect generator; the bias shrinks as 1/n. `--labels random` has none.",
    "memorisation": "`memorisation` is about 1 if samples are as far from the training"
    " images as test images are. Copies lower it, and so do truncation and averaged"
    " weights; a high `memorisation_duplicates` speaks for copies (1 % of the test"
    " images are as near).",
    "spread": "*Spread*: `kid_std` and `is_std` are deviations over subsets and splits"
    " of the same images. `fid_infinity_std` is a standard error by the samples, up to"
    " twice too large, without the bias of the extrapolation. The ± of a value, if"
    " there is one, is the sample standard deviation over seeds.",
}


def by_variant(result: Result) -> dict[str, Rows]:
    """Rows by variant (weights and batch statistics) and metric; no single classes."""
    variants: dict[str, Rows] = {}
    for row in result["results"]:
        if "/" not in row["metric"]:
            variants.setdefault(_variant(row), {})[row["metric"]] = row
    return variants


def better(name: str) -> str:
    """Whether lower or higher values of a metric are better; "" for neither."""
    plain = name.replace("fd", "fid", 1)
    if name.startswith("confused"):
        return ""
    of = [METRICS[k] for k in sorted(METRICS, key=len) if plain.startswith(k)]
    if is_spread(name) or (of and of[-1].undirected):
        return ""
    return "lower" if of and of[-1].distance else "higher"


def titled(name: str, direction: str | None = None) -> str:
    """A metric's name with an arrow up or down, for what is better; None: `better`."""
    arrow = _ARROWS[better(name) if direction is None else direction]
    return f"{name} {arrow}".rstrip()


def headline(result: Result) -> list[tuple[str, str]]:
    """A few metrics of an evaluation's last variant, with arrows, and their values."""
    rows = ([*by_variant(result).values()] or [{}])[-1]
    shown = [name for name in rows if not is_spread(name)][:_HEADLINE]
    return [(titled(name), value_text(rows[name])) for name in shown]


def result_table(result: Result, *, spread: bool = False) -> list[list[str]]:
    """A header, and a row for each metric: its variants, and its baseline.

    With `spread` the rows are the deviations within a metric, which have no baseline.
    """
    variants = by_variant(result)
    lines = [["metric", *variants] + ["real against real", "at"] * (not spread)]
    for name in dict.fromkeys(name for rows in variants.values() for name in rows):
        if is_spread(name) != spread:
            continue
        mine = [rows.get(name) for rows in variants.values()]
        some = next(row for row in mine if row)
        values = [value_text(row) if row else "" for row in mine]
        about = [] if spread else [baseline_text(some), _at(some)]
        lines.append([titled(name), *values, *about])
    return lines


def class_table(result: Result) -> list[list[str]]:
    """A header, and the worst classes of the last variant, the worst first.

    The worst are those with the largest first number relative to its baseline, or
    simply the largest without baselines. Empty if no number is of a class.
    """
    last = ([*map(_variant, result["results"])] or [""])[-1]
    classes: dict[str, Rows] = {}
    for row in result["results"]:
        name, _, label = row["metric"].partition("/")
        if label and _variant(row) == last:
            classes.setdefault(label.partition("/")[0], {})[name] = row
    known = dict.fromkeys(name for rows in classes.values() for name in rows)
    names = [n for start in _OF_CLASSES for n in known if n.startswith(start)]
    if not names:
        return []
    confused = [n for n in known if n.startswith("confused")]
    sign = -1 if better(names[0]) == "lower" else 1

    ranked = {label: rows.get(names[0], {}) for label, rows in classes.items()}
    relative = all("baseline" in row for row in ranked.values())  # sizes may differ

    def place(label: str) -> float:
        row = ranked[label]
        value = row.get("value", -sign * np.inf)
        return sign * (value / row["baseline"] if relative else value)

    def cells(label: str) -> Iterable[str]:
        yield _class_name(result, label)
        for name in names:
            row = classes[label].get(name)
            yield value_text(row) if row else ""
            yield baseline_text(row) if row else ""
        for name in confused:
            row = classes[label].get(name)
            other = row["metric"].rpartition("/")[2] if row else ""
            yield f"{_class_name(result, other)}, {row['value']:.0%}" if row else ""

    head = ["class"]
    for name in names:
        head += [titled(name), "real"]
    shown = sorted(classes, key=place)[:CLASSES_SHOWN]
    lines = [[*head, *("taken for" for _ in confused)], *([*cells(k)] for k in shown)]
    used = [any(column[1:]) for column in zip(*lines, strict=True)]
    return [
        [cell for cell, kept in zip(line, used, strict=True) if kept] for line in lines
    ]


def text_table(lines: Sequence[Sequence[str]]) -> str:
    """Aligns a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Formats a table as Markdown."""
    head, *rest = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *rest])


def explanations(result: Result) -> list[str]:
    """Sentences of Markdown that the tables need."""
    rows = result["results"]
    baselines = {row.get("baseline_kind") for row in rows}
    names = {row["metric"] for row in rows}
    wanted = {
        "baseline": any("baseline" in row for row in rows),
        "kid": any(name.startswith("kid") for name in names),
        "memorisation": any(name.startswith("memorisation") for name in names),
        "spread": any(map(is_spread, names)),
    }
    return [
        text for key, text in _EXPLAINED.items() if wanted.get(key, key in baselines)
    ]


def render_card(result: Result) -> str:
    """The numbers and everything that decides them, as Markdown."""
    facts = {**result["about"], "protocol sha256": result["protocol_sha256"]}
    parts = [f"# Evaluation of {facts['what']}", markdown_table(result_table(result))]
    words = [f"{result['protocol']['samples']} samples.", *explanations(result)]
    parts.append("\n".join(f"- {text}" for text in words))
    spread = result_table(result, spread=True)
    if spread[1:]:
        parts.append(f"## Spread\n\n{markdown_table(spread)}")
    if classes := class_table(result):
        title = f"## Classes, the worst first ({_variant(result['results'][-1])})"
        parts.append(f"{title}\n\n{markdown_table(classes)}")
    parts += [_list("Evaluated", facts), _list("Protocol", result["protocol"])]
    if result["notes"]:
        parts.append("## Notes\n\n" + "\n".join(f"- {n}" for n in result["notes"]))
    parts.append(_list("Made", {**result.get("made", {}), **result["versions"]}))
    return "\n\n".join(parts) + "\n"


def plot_results(path: Path, results: Iterable[Result]) -> None:
    """Plots every metric over the step: a line for each variant, baselines dotted."""
    from matplotlib.figure import Figure

    curves: dict[str, dict[str, dict[int, float]]] = {}
    baselines: dict[str, float | None] = {}
    for result in sorted(results, key=lambda result: result["about"]["step"]):
        for variant, rows in by_variant(result).items():
            for name in (name for name in rows if not is_spread(name)):
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
        axes.set_title(titled(name), fontsize="medium")
        axes.set_xlabel("step", fontsize="small")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    with files.whole_file(path) as file:
        figure.savefig(file, format="png")


def value_text(row: Mapping[str, Any]) -> str:
    """A value for a table, with its spread if it has one."""
    spread = f" ± {row['std']:.2g}" if "std" in row else ""
    return f"{row['value']:.4g}{spread}"


def baseline_text(row: Mapping[str, Any]) -> str:
    """A baseline for a table, with its spread if it has one; empty without any."""
    if "baseline" not in row:
        return ""
    spread = f" ± {row['baseline_std']:.2g}" if "baseline_std" in row else ""
    bound = "≤ " if row.get("baseline_kind") == UPPER else ""
    return f"{bound}{row['baseline']:.4g}{spread}"


def _at(row: Mapping[str, Any]) -> str:
    """The numbers of samples and reals that a baseline holds for."""
    numbers = (row[k] for k in ("baseline_samples", "baseline_reals") if k in row)
    return " / ".join(map(str, numbers))


def _variant(row: Mapping[str, Any]) -> str:
    return ", ".join(row[k] for k in ("weights", "batch_norm") if k in row) or "value"


def _class_name(result: Result, label: str) -> str:
    names = result.get("class_names", ())
    known = label.isdecimal() and int(label) < len(names)
    return str(names[int(label)]) if known else label


def _list(title: str, facts: Mapping[str, Any]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {k}: {v}" for k, v in facts.items())
