"""What curves there are of one run, or of several over one another."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sagan.config.schema import Config
from sagan.sampling.attention_maps import (
    AttentionGrid,
    attention_layers,
    uniform_bits,
    uniform_pixels,
)
from sagan.visualization.record import Record, variants

_MOST = 1e30  # beyond, axes overflow
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
      colour: lines of one colour belong together, such as those of a run.
    """

    label: str
    steps: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    dropped: int = 0
    colour: int = 0


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
    """A panel of one run, or one for each label of several.

    Attributes:
      title: of the panel.
      names: in metrics.jsonl, by label.
      level: what is dotted.
      levels: its values, by the label that they belong to.
      note: how to read it.
      log: the values vary by orders of magnitude.
    """

    title: str
    names: Mapping[str, str]
    level: str = ""
    levels: Mapping[str, Collection[float]] = {}
    note: str = ""
    log: bool = False


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
        made = [_panel(quantity, runs[0]) for quantity in wanted]
    else:
        made = [panel for quantity in wanted for panel in _overlaid(quantity, runs)]
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

    labels = {(p, name): f"{p.upper()}, {name}" for p, name in grids}

    def names(kind: str) -> dict[str, str]:
        return {label: f"{kind}/{p}/{name}" for (p, name), label in labels.items()}

    def levels(of: Callable[[AttentionGrid], Any]) -> dict[str, set[float]]:
        return {
            labels[layer]: {round(float(np.mean(of(grid))), 6) for grid in mine}
            for layer, mine in grids.items()
        }

    zero = dict.fromkeys(labels.values(), [0.0])
    return [
        _Quantity("gamma", names("gamma"), "zero", zero, _SIGN),
        _Quantity(
            "strength of attention: |gamma v| / |x|",
            names("strength"),
            note="The norm of what a layer adds over the norm of what it is added to.",
        ),
        _Quantity(
            "entropy of attention, bits",
            names("entropy"),
            "uniform",
            levels(uniform_bits),
            "Mean over positions; dotted: looking everywhere alike.",
        ),
        _Quantity(
            "distance of attention, pixels",
            names("distance"),
            "uniform",
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
    good = np.abs(values) < _MOST  # false of what is no number
    if not good.any():
        return None
    return Series(label, steps[good], values[good], int((~good).sum()))


def _panel(quantity: _Quantity, run: Curves) -> Panel:
    found = [_series(label, name, run) for label, name in quantity.names.items()]
    return _finished(quantity, found)


def _overlaid(quantity: _Quantity, runs: Sequence[Curves]) -> Iterator[Panel]:
    """A panel for each label; how to read them is said at the first."""
    note = quantity.note
    for label, name in quantity.names.items():
        one = quantity._replace(
            title=f"{quantity.title} ({label})",
            levels={label: quantity.levels.get(label, ())},
            note=note,
        )
        panel = _finished(one, [_series(run.name, name, run) for run in runs])
        yield panel
        note = "" if panel.lines else note


def _finished(quantity: _Quantity, found: Sequence[Series | None]) -> Panel:
    lines = tuple(
        line._replace(colour=number)
        for number, line in enumerate(found)
        if line is not None
    )
    values = sorted({value for mine in quantity.levels.values() for value in mine})
    several = len(values) > 1
    levels = {
        f"{quantity.level}: {value:.3g}" if several else quantity.level: value
        for value in values
    }
    note = quantity.note
    if dropped := sum(line.dropped for line in lines):
        note = f"{note} Values that are not finite, left out: {dropped}.".strip()
    log = quantity.log and all((line.values > 0).all() for line in lines)
    return Panel(quantity.title, lines, levels, note, log)


def _evaluations(runs: Sequence[Curves]) -> list[Panel]:
    """A panel for each metric: the variants of one run, or the last variant of each."""
    points: dict[str, dict[str, dict[int, float]]] = {}
    floors: dict[str, set[float]] = {}
    for run in runs:
        for result in run.record.results:
            chosen = variants(result)[-1:] if len(runs) > 1 else variants(result)
            for variant, rows in chosen:
                label = variant if len(runs) == 1 else f"{run.name}: {variant}"
                for metric, row in rows.items():
                    lines = points.setdefault(metric, {}).setdefault(label, {})
                    lines[result["about"]["step"]] = float(row["value"])
                    if "baseline" in row and len(runs) == 1:
                        floors[metric] = {float(row["baseline"])}
    made = []
    for metric, lines in points.items():
        floor = {"": floors.get(metric, ())}
        quantity = _Quantity(metric, {}, "real against real", floor)
        found = [_sorted(label, line) for label, line in lines.items()]
        panel = _finished(quantity, found)
        if "_std" not in metric and any(len(line.steps) > 1 for line in panel.lines):
            made.append(panel)
    return made
