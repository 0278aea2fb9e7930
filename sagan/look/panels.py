"""What curves there are of one run, or of several over one another."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sagan.look.record import Record, variants
from sagan.maps import attention_layers, uniform_bits, uniform_pixels
from sagan.schema import Config

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
