"""Baselines: each metric between two sets of real images."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sagan.evaluation.scoring import Scorer, full_names, state_of
from sagan.metrics import Extracted, Metric, MetricError
from sagan.runtime.progress import bar

_SEED = 0  # of the choice of reals that stand in for fakes


class Baseline(NamedTuple):
    """A metric between two sets of reals.

    Attributes:
      value: The number.
      samples: Number of reals that stand in for fakes.
    """

    value: float
    samples: int


def baselines(
    scorer: Scorer, labels: Int[np.ndarray, " n"] | None
) -> tuple[dict[str, Baseline], list[str]]:
    """Every number between two sets of reals, and notes on those without a baseline.

    A generator of exactly the reals' distribution would get these numbers. `_stand_ins`
    chooses the reals that stand in for fakes.

    Args:
      scorer: Holds the reals.
      labels: Labels of the fakes; None: they have none.
    """
    values, notes = {}, []
    for name, metric in scorer.metrics.items():
        states = _stand_ins(scorer, name, metric, labels)
        if states is None:
            notes.append(f"{name}: no baseline without held-out reals")
            continue
        real, fake, count = states
        try:
            measured = metric.compute(real, fake, bar)
        except MetricError as error:
            notes.append(f"{name}: no baseline: {error}")
            continue
        apart = {k: v for k, v in measured.values.items() if k not in metric.in_sample}
        named = full_names(scorer, metric, apart)
        values |= {key: Baseline(value, count) for key, value in named.items()}
    return values, notes


def _stand_ins(
    scorer: Scorer, name: str, metric: Metric, labels: Int[np.ndarray, " n"] | None
) -> tuple[Any, Any, int] | None:
    """States of the reals and of the reals that stand in for fakes, and their number.

    A number from the classifier's logits takes held-out reals, which the classifier was
    not trained on. Distances take two draws with replacement from the reals, as many as
    there are reals and fakes, class by class: then the bias by these numbers is that of
    the fakes. Copies distort distances if there are fewer than ten images a feature
    (with ten, of pure noise, the baseline is a fifth too low), and nearest neighbours
    always: then both sets are distinct reals, at most half of them.
    """
    reals, count = scorer.reals, scorer.samples
    if metric.logits or not metric.featured:
        trained_on = metric.logits and scorer.network.reads_labels
        stand_in = scorer.test if trained_on else reals
        if stand_in is None or not _has_others(metric, reals):
            return None
        fake = state_of(metric, stand_in, slice(count))
        return scorer.states[name], fake, min(count, len(stand_in.label))
    groups = len(np.unique(reals.label)) if metric.labelled else 1
    enough = len(reals.label) // groups >= 10 * reals.vector.shape[1]
    copies = enough and not metric.paired
    real_rows, fake_rows = draw_rows(reals.label, labels, count, copies=copies)
    if metric.paired:
        real_rows = real_rows[: len(fake_rows)]
    states = (state_of(metric, reals, rows) for rows in (real_rows, fake_rows))
    return *states, len(fake_rows)


def _has_others(metric: Metric, reals: Extracted) -> bool:
    """Whether the metric has reals to test on besides those that it trains on."""
    test = getattr(metric, "test", None)
    return metric.featured or (test is not None and test.image is not reals.image)


def draw_rows(
    label: Int[np.ndarray, " m"],
    labels: Int[np.ndarray, " n"] | None,
    count: int,
    *,
    copies: bool,
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " l"]]:
    """Rows of the reals for two sets: one for the reals, one that stands in for fakes.

    Args:
      label: Labels of the reals, in random order.
      labels: Labels of the fakes, which their stand-ins share as far as there are
        enough; None: all are one class.
      count: Number of fakes.
      copies: Draw both with replacement from all reals; else from one half each.
    """
    if labels is None:
        label, labels = np.zeros(len(label), int), np.zeros(count, int)
    rng = np.random.default_rng(_SEED)
    real, fake = [], []
    for k in np.unique(label):
        rows, wanted = np.flatnonzero(label == k), int((labels == k).sum())
        if copies:
            real.append(rng.choice(rows, len(rows)))
            fake.append(rng.choice(rows, wanted))
        else:
            half = len(rows) // 2
            real.append(rows[half:])
            fake.append(rows[: min(half, wanted)])
    shuffled = [rng.permutation(np.concatenate(rows)) for rows in (real, fake)]
    return shuffled[0], shuffled[1]
