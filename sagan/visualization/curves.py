"""Curves of one run, or of several for comparison, as data."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sagan.evaluation.card import by_variant
from sagan.sampling.attention_maps import (
    AttentionGrid,
    attention_layers,
    uniform_bits,
    uniform_pixels,
)
from sagan.visualization.run_record import RunRecord

_MOST = 1e30  # axes overflow beyond


class Curve(NamedTuple):
    """Finite values of one quantity over the steps of a run, in rising order.

    Attributes:
      dropped: Number of values that were not finite.
      colour: Index of a colour.
    """

    label: str
    steps: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    dropped: int = 0
    colour: int = 0


class Plot(NamedTuple):
    """Curves with common axes.

    Attributes:
      levels: Values to compare with, by label; drawn as dotted lines.
      log: Whether the vertical axis is logarithmic.
    """

    title: str
    curves: tuple[Curve, ...]
    levels: Mapping[str, float] = {}
    note: str = ""
    log: bool = False


class _Quantity(NamedTuple):
    """One plot of a run, or one for each label if there are several runs.

    Attributes:
      names: Names in metrics.jsonl, by label.
      level: Name of a value to compare with, whose variants `levels` has by label.
    """

    title: str
    names: Mapping[str, str]
    level: str = ""
    levels: Mapping[str, Iterable[float]] = {}
    note: str = ""
    log: bool = False


_TRAINING = (
    _Quantity("loss", {"discriminator": "d_loss", "generator": "g_loss"}),
    _Quantity(
        "mean logit of the discriminator",
        {"real images": "d_real", "generated images": "d_fake"},
    ),
    _Quantity(
        "gradient norm",
        {"discriminator": "d_grad_norm", "generator": "g_grad_norm"},
        log=True,
    ),
    _Quantity(
        "spectral norm of the weights",
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
    _Quantity(
        "regularisers, before their weights",
        {
            "LeCam": "reg/lecam",
            "consistency, real": "reg/consistency_real",
            "consistency, generated": "reg/consistency_fake",
            "R1": "reg/r1",
        },
    ),
)


def make_plots(runs: Sequence[RunRecord]) -> list[Plot]:
    """Plots of attention, training and evaluations that have any curve.

    One run's players and layers share a plot; several runs share a plot for each player
    and layer.
    """
    quantities = [*_attention(runs), *_TRAINING]
    plots = [plot for quantity in quantities for plot in _logged(quantity, runs)]
    return [plot for plot in [*plots, *_evaluations(runs)] if plot.curves]


def _attention(runs: Sequence[RunRecord]) -> list[_Quantity]:
    """The quantities of all attention layers of any of the runs."""
    grids = defaultdict(set)
    for run in runs:
        for player in "gd":
            for name, grid in attention_layers(run.config, player).items():
                grids[f"{player}/{name}"].add(grid)
    labels = {place: f"{place[0].upper()}, {place[2:]}" for place in grids}

    def names(kind: str) -> dict[str, str]:
        return {label: f"{kind}/{place}" for place, label in labels.items()}

    def means(value: Callable[[AttentionGrid], Any]) -> dict[str, set[float]]:
        return {
            labels[place]: {round(float(np.mean(value(grid))), 6) for grid in mine}
            for place, mine in grids.items()
        }

    return [
        _Quantity(
            "gamma",
            names("gamma"),
            "zero",
            {label: {0.0} for label in labels.values()},
            "The sign of gamma is shared with the output convolution v: (gamma, v) and"
            " (-gamma, -v) are the same function. What counts is |gamma|; near 0 the"
            " layer is hardly used.",
        ),
        _Quantity(
            "strength of attention: |gamma v| / |x|",
            names("strength"),
            note="Norm of a layer's contribution over the norm of its input.",
        ),
        _Quantity(
            "entropy of attention, bits",
            names("entropy"),
            "uniform",
            means(uniform_bits),
            "Mean over positions; dotted: uniform attention.",
        ),
        _Quantity(
            "distance of attention, pixels",
            names("distance"),
            "uniform",
            means(uniform_pixels),
            "Mean distance to the attended keys; dotted: uniform attention.",
        ),
    ]


def _logged(quantity: _Quantity, runs: Sequence[RunRecord]) -> Iterator[Plot]:
    if len(runs) == 1:
        curves = [_curve(k, _points(n, runs[0])) for k, n in quantity.names.items()]
        yield _plot(quantity, curves)
        return
    note = quantity.note  # shown once, with the first of its plots
    for label, name in quantity.names.items():
        title = f"{quantity.title} ({label})"
        levels = {label: quantity.levels.get(label, ())}
        curves = [_curve(run.name, _points(name, run)) for run in runs]
        plot = _plot(quantity._replace(title=title, levels=levels, note=note), curves)
        yield plot
        note = "" if plot.curves else note


def _points(name: str, run: RunRecord) -> dict[int, float]:
    """Values by step; the last one, if a step was logged twice."""
    rows = run.metrics
    return {int(row["step"]): row[name] for row in rows if name in row}


def _curve(label: str, points: Mapping[int, float]) -> Curve:
    steps = np.array(sorted(points), int)
    values = np.array([points[step] for step in steps.tolist()], float)
    good = np.abs(values) < _MOST  # False for NaN
    return Curve(label, steps[good], values[good], int((~good).sum()))


def _plot(quantity: _Quantity, found: Sequence[Curve]) -> Plot:
    curves = tuple(
        curve._replace(colour=number)
        for number, curve in enumerate(found)
        if len(curve.steps)
    )
    values = sorted({value for mine in quantity.levels.values() for value in mine})
    name = quantity.level + (": {:.3g}" if len(values) > 1 else "")
    levels = {name.format(value): value for value in values}
    note = quantity.note
    if dropped := sum(curve.dropped for curve in curves):
        note = f"{note} Left out because they are not finite: {dropped} values.".strip()
    log = quantity.log and all((curve.values > 0).all() for curve in curves)
    return Plot(quantity.title, curves, levels, note, log)


def _evaluations(runs: Sequence[RunRecord]) -> Iterator[Plot]:
    """A plot for each metric: one run's variants, or the last variant of each run."""
    points: dict[str, Any] = defaultdict(lambda: defaultdict(dict))
    baselines: dict[str, list[float]] = {}
    for run in runs:
        for result in run.results:
            by_name = list(by_variant(result).items())
            for variant, rows in by_name[0 if len(runs) == 1 else -1 :]:
                label = variant if len(runs) == 1 else f"{run.name}: {variant}"
                for metric, row in rows.items():
                    points[metric][label][result["about"]["step"]] = row["value"]
                    if "baseline" in row and len(runs) == 1:
                        baselines[metric] = [row["baseline"]]
    for metric, by_label in points.items():
        levels = {"": baselines.get(metric, ())}
        curves = [_curve(label, points) for label, points in by_label.items()]
        plot = _plot(_Quantity(metric, {}, "real against real", levels), curves)
        if "_std" not in metric and any(len(c.steps) > 1 for c in plot.curves):
            yield plot
