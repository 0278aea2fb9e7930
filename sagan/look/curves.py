"""Curves of one run, or of several over one another: what was logged, over steps."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sagan.look.record import Record, variants
from sagan.maps import attention_layers, uniform_bits, uniform_pixels
from sagan.schema import Config
from sagan.workdir import naming

MOST_POINTS = 500
COLOURS = ("#3b7dd8", "#d97b29", "#2f9e6e", "#b455b0", "#c94b4b", "#7a8794")
_INK = "#010203"  # becomes the page's text colour
_SIGN = (
    "The sign of gamma is shared with the output convolution v: (gamma, v) and"
    " (-gamma, -v) are the same function. What counts is |gamma|; near 0 the layer is"
    " hardly used."
)


class Series(NamedTuple):
    """A curve.

    Attributes:
      label: what to call it.
      steps: in rising order.
      values: finite.
      dropped: how many were not finite.
    """

    label: str
    steps: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    dropped: int = 0


class Panel(NamedTuple):
    """Curves with one axis.

    Attributes:
      title: the quantity, with its unit.
      lines: what is drawn.
      levels: what is dotted, by label: a value to compare with.
      note: how to read it.
      log: a logarithmic axis.
    """

    title: str
    lines: tuple[Series, ...]
    levels: Mapping[str, float] = {}
    note: str = ""
    log: bool = False


class Curves(NamedTuple):
    """What the curves of a run are drawn from."""

    name: str
    config: Config
    record: Record


class _Quantity(NamedTuple):
    title: str
    names: Mapping[str, str]  # label -> name in metrics.jsonl
    levels: Mapping[str, float] = {}
    note: str = ""
    log: bool = False


_BOTH = ("discriminator", "generator")
_GENERAL = (
    _Quantity("loss", {"discriminator": "d_loss", "generator": "g_loss"}),
    _Quantity(
        "mean output of the discriminator",
        {"on real images": "d_real", "on generated images": "d_fake"},
    ),
    _Quantity(
        "norm of the gradient",
        {"discriminator": "d_grad_norm", "generator": "g_grad_norm"},
        log=True,
    ),
    _Quantity(
        "sigma of the normalised weights",
        {
            "discriminator, largest": "sigma/d_max",
            "generator, largest": "sigma/g_max",
            "discriminator, smallest": "sigma/d_min",
            "generator, smallest": "sigma/g_min",
        },
    ),
    _Quantity(
        "diversity of a batch",
        {"real images": "real_diversity", "generated images": "fake_diversity"},
        note="Standard deviation of a pixel over the batch; pixels are in [-1, 1].",
    ),
    _Quantity("share of saturated logits", {"discriminator": "d_saturated"}),
)


def panels(runs: Sequence[Curves]) -> list[Panel]:
    """What there is to draw: attention, training, evaluations.

    Of one run, the players and layers share a panel; of several, each has its own and
    the runs share it.
    """
    wanted = [*_attention(runs), *_GENERAL]
    if len(runs) == 1:
        made = [_panel(q, runs[0]) for q in wanted]
    else:
        made = [_overlaid(q, label, runs) for q in wanted for label in q.names]
    return [panel for panel in [*made, *_evaluations(runs)] if panel.lines]


def _attention(runs: Sequence[Curves]) -> list[_Quantity]:
    """The quantities of all attention layers that any of the runs has."""
    grids = {}
    for run in runs:
        for player in "gd":
            for name, grid in attention_layers(run.config, player).items():
                grids.setdefault((player, name), set()).add(grid)
    if not grids:
        return []

    def names(kind: str) -> dict[str, str]:
        return {f"{p.upper()}, {name}": f"{kind}/{p}/{name}" for p, name in grids}

    def levels(of: Callable[..., Any]) -> dict[str, float]:
        found = {float(np.mean(of(grid))) for mine in grids.values() for grid in mine}
        values = sorted(found)
        if len(values) == 1:
            return {"uniform": values[0]}
        return {f"uniform: {value:.3g}": value for value in values}

    return [
        _Quantity("gamma", names("gamma"), {"zero": 0.0}, _SIGN),
        _Quantity(
            "strength of attention: |gamma v| / |x|",
            names("strength"),
            note="The norm of what a layer adds over the norm of what it is added to.",
        ),
        _Quantity(
            "entropy of attention, bits",
            names("entropy"),
            levels(uniform_bits),
            "Mean over positions; dotted: looking everywhere alike.",
        ),
        _Quantity(
            "distance of attention, pixels",
            names("distance"),
            levels(uniform_pixels),
            "Mean distance to what a position draws from; dotted: looking everywhere"
            " alike.",
        ),
    ]


def _series(label: str, name: str, run: Curves) -> Series | None:
    points = {
        int(row["step"]): row[name] for row in run.record.metrics if name in row
    }  # of a step that is there twice, the later line
    return _sorted(label, points)


def _sorted(label: str, points: Mapping[int, float]) -> Series | None:
    steps = np.array(sorted(points), int)
    values = np.array([points[step] for step in steps.tolist()], float)
    good = np.isfinite(values)
    if not good.any():
        return None
    return Series(label, steps[good], values[good], int((~good).sum()))


def _panel(quantity: _Quantity, run: Curves) -> Panel:
    found = [_series(label, name, run) for label, name in quantity.names.items()]
    return _finished(quantity, quantity.title, found)


def _overlaid(quantity: _Quantity, label: str, runs: Sequence[Curves]) -> Panel:
    found = [_series(run.name, quantity.names[label], run) for run in runs]
    return _finished(quantity, f"{quantity.title} ({label})", found)


def _finished(quantity: _Quantity, title: str, found: Sequence[Series | None]) -> Panel:
    lines = tuple(line for line in found if line is not None)
    note = quantity.note
    if dropped := sum(line.dropped for line in lines):
        note = f"{note} Values that are not finite, left out: {dropped}.".strip()
    log = quantity.log and all((line.values > 0).all() for line in lines)
    return Panel(title, lines, quantity.levels, note, log)


def _evaluations(runs: Sequence[Curves]) -> list[Panel]:
    """A panel for each metric: the variants of one run, or the last variant of each."""
    points: dict[str, dict[str, dict[int, float]]] = {}
    floors: dict[str, dict[str, float]] = {}
    for run in runs:
        for result in run.record.results:
            chosen = variants(result)[-1:] if len(runs) > 1 else variants(result)
            for variant, rows in chosen:
                label = variant if len(runs) == 1 else f"{run.name}: {variant}"
                for metric, row in rows.items():
                    if "_std" in metric:
                        continue
                    lines = points.setdefault(metric, {}).setdefault(label, {})
                    lines[result["about"]["step"]] = float(row["value"])
                    if "floor" in row and len(runs) == 1:
                        level = {"real against real": float(row["floor"])}
                        floors[metric] = level
    made = []
    for metric, lines in points.items():
        found = [_sorted(label, line) for label, line in lines.items()]
        quantity = _Quantity(f"{metric}", {}, floors.get(metric, {}))
        made.append(_finished(quantity, quantity.title, found))
    several = [p for p in made if any(len(line.steps) > 1 for line in p.lines)]
    return several


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
    lines = [(line.label, *_look(number)) for number, line in enumerate(panel.lines)]
    levels = [(label, "currentColor", "2 2") for label in panel.levels]
    return [(label, colour, dashes[d]) for label, colour, d in lines] + levels


def _look(number: int) -> tuple[str, str]:
    """Colour and dash of a line."""
    times, colour = divmod(number, len(COLOURS))
    return COLOURS[colour], ("-", "--", "-.")[times % 3]


def _draw(axes: Any, panel: Panel, width: float) -> None:
    for number, line in enumerate(panel.lines):
        line = thinned(line)
        options = {"marker": "o", "markersize": 3} if len(line.steps) < 15 else {}
        colour, dash = _look(number)
        axes.plot(
            line.steps,
            line.values,
            dash,
            c=colour,
            lw=width,
            label=line.label,
            **options,
        )
    for label, level in panel.levels.items():
        axes.axhline(level, color=_INK, lw=0.8, ls=":", label=label)
    if panel.log:
        axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda step, _: _short(step))


def _short(step: float) -> str:
    """Such as 500, 20k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= 10 * size or (abs(step) >= size and step % size == 0):
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
        _draw(figure.add_subplot(), panel, 1.2)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r' id="[a-zA-Z]+_?\d+(\.\d+)?"(?=>)', "", text)
    return re.sub(r"\s*<metadata>.*?</metadata>|\n\s*", "\n", text, flags=re.DOTALL)


def png(path: Path, panels: Sequence[Panel]) -> None:
    """Draws all panels into one picture."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 8}):
        figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
        for number, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, number)
            _draw(axes, panel, 1.2)
            axes.set_title(panel.title, fontsize="medium")
            axes.legend(fontsize="x-small", frameon=False)
        with naming(path):
            FigureCanvasAgg(figure).print_png(str(path))
