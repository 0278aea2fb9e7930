"""Plots as inline SVG for a page, drawn by Matplotlib."""

import io
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sagan.visualization.curves import Curve, Plot

MOST_POINTS = 500
COLOURS = ("#3b7dd8", "#d97b29", "#2f9e6e", "#b455b0", "#c94b4b", "#7a8794")
_DASHES = {"-": "none", "--": "5 3", "-.": "6 3 2 3"}  # Matplotlib's and SVG's
_INK = "#010203"  # replaced by the page's text colour
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


def draw_svg(plot: Plot) -> str:
    """The plot as inline SVG in the page's text colour, without title and legend.

    It contains no text of the run, only numbers.
    """
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.7, 2.1), layout="constrained")
        _draw_axes(figure.add_subplot(), plot)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r' id="[a-zA-Z]+_?\d+(\.\d+)?"(?=>)', "", text)
    return re.sub(r"\s*<metadata>.*?</metadata>|\n\s*", "\n", text, flags=re.DOTALL)


def legend(plot: Plot) -> list[tuple[str, str, str]]:
    """(label, colour, stroke-dasharray) of every curve and level."""
    styles = [(curve.label, *_style(curve.colour)) for curve in plot.curves]
    levels = [(label, "currentColor", "2 2") for label in plot.levels]
    return [(label, colour, _DASHES[d]) for label, colour, d in styles] + levels


def thin(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """At most `most` points: the lowest and the highest of each stretch of steps."""
    count = len(curve.steps)
    if count <= most:
        return curve
    parts = np.array_split(np.arange(count), most // 2)
    v = curve.values
    kept = {part[pick(v[part])] for part in parts for pick in (np.argmin, np.argmax)}
    chosen = np.array(sorted(kept))
    return curve._replace(steps=curve.steps[chosen], values=v[chosen])


def _style(number: int) -> tuple[str, str]:
    """Colour and dash of a curve."""
    times, colour = divmod(number, len(COLOURS))
    return COLOURS[colour], list(_DASHES)[times % len(_DASHES)]


def _draw_axes(axes: Any, plot: Plot) -> None:
    for curve in map(thin, plot.curves):
        options = {"marker": "o", "markersize": 3} if len(curve.steps) < 15 else {}
        colour, dash = _style(curve.colour)
        axes.plot(curve.steps, curve.values, dash, c=colour, lw=1.2, **options)
    for level in plot.levels.values():
        axes.axhline(level, color=_INK, lw=0.8, ls=":")
    if plot.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda step, _: _short(step))


def _short(step: float) -> str:
    """A number such as 500, 2.5k or 1M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= size:
            return f"{step / size:g}{unit}"
    return f"{step:g}"
