"""Draws curves as inline SVG for a page."""

import io
import re
from typing import Any

import numpy as np

from sagan.visualization.panels import Panel, Series

MOST_POINTS = 500
COLOURS = ("#3b7dd8", "#d97b29", "#2f9e6e", "#b455b0", "#c94b4b", "#7a8794")
_INK = "#010203"  # becomes the page's text colour


def thinned(series: Series, most: int = MOST_POINTS) -> Series:
    """At most so many points: the lowest and the highest of each stretch of steps."""
    count = len(series.steps)
    if count <= most:
        return series
    parts = np.array_split(np.arange(count), most // 2)
    v = series.values
    kept = {part[pick(v[part])] for part in parts for pick in (np.argmin, np.argmax)}
    chosen = np.array(sorted(kept))
    return series._replace(steps=series.steps[chosen], values=v[chosen])


def legend(panel: Panel) -> list[tuple[str, str, str]]:
    """(label, colour, SVG's stroke-dasharray) of every line and level."""
    dashes = {"-": "none", "--": "5 3", "-.": "6 3 2 3"}
    lines = [(line.label, *_look(line.colour)) for line in panel.lines]
    levels = [(label, "currentColor", "2 2") for label in panel.levels]
    return [(label, colour, dashes[d]) for label, colour, d in lines] + levels


def _look(number: int) -> tuple[str, str]:
    """Colour and dash of a line."""
    times, colour = divmod(number, len(COLOURS))
    return COLOURS[colour], ("-", "--", "-.")[times % 3]


def _draw(axes: Any, panel: Panel) -> None:
    for line in map(thinned, panel.lines):
        options = {"marker": "o", "markersize": 3} if len(line.steps) < 15 else {}
        colour, dash = _look(line.colour)
        axes.plot(line.steps, line.values, dash, c=colour, lw=1.2, **options)
    for level in panel.levels.values():
        axes.axhline(level, color=_INK, lw=0.8, ls=":")
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda step, _: _short(step))


def _short(step: float) -> str:
    """Such as 500, 2.5k, 1M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= size:
            return f"{step / size:g}{unit}"
    return f"{step:g}"


_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sagan",
    "text.parse_math": False,
    "font.size": 8,
    "path.simplify": True,
    **{f"{name}.color": _INK for name in ("text", "xtick", "ytick")},
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
}


def svg(panel: Panel) -> str:
    """The panel as inline SVG, in the page's text colour, without title and legend.

    No text in it comes from the run: there are numbers only.
    """
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.7, 2.1), layout="constrained")
        _draw(figure.add_subplot(), panel)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r' id="[a-zA-Z]+_?\d+(\.\d+)?"(?=>)', "", text)
    return re.sub(r"\s*<metadata>.*?</metadata>|\n\s*", "\n", text, flags=re.DOTALL)
