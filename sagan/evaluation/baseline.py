"""Real against real: what a number would be if the fakes were reals."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sagan.evaluation.scoring import Judge, full_names, state_of
from sagan.metrics import Metric, MetricError, Seen

_SEED = 0  # of the reals that take the place of fakes


class Floor(NamedTuple):
    """A number of reals beside reals.

    Attributes:
      value: of it.
      samples: reals in the place of fakes.
    """

    value: float
    samples: int


def floors(
    judge: Judge, labels: Int[np.ndarray, " n"] | None
) -> tuple[dict[str, Floor], list[str]]:
    """The numbers of reals in the place of the fakes, and notes of those without.

    What a generator would get that draws from the distribution of the reals: see
    `_stand_ins` for which reals these are.

    Args:
      judge: with the reals.
      labels: of the fakes; None: they have none.
    """
    found, notes = {}, []
    for name, metric in judge.metrics.items():
        states = _stand_ins(judge, name, metric, labels)
        if states is None:
            notes.append(f"{name}: no real-against-real, for want of held-out reals")
            continue
        real, fake, count = states
        try:
            measured = metric.compute(real, fake, judge.progress)
        except MetricError as error:
            notes.append(f"{name}: no real-against-real: {error}")
            continue
        apart = {k: v for k, v in measured.values.items() if k not in metric.in_sample}
        named = full_names(judge, metric, apart)
        found |= {key: Floor(value, count) for key, value in named.items()}
    return found, notes


def _stand_ins(
    judge: Judge, name: str, metric: Metric, labels: Int[np.ndarray, " n"] | None
) -> tuple[Any, Any, int] | None:
    """States of the reals and of reals in the place of fakes, and how many these are.

    A number that the classifier's logits make is taken of held-out reals, which it was
    not trained on. Distances are of two draws with replacement from the reals, as many
    as there are of each, class by class: the bias by their numbers is that of the
    fakes. Copies do not bear that where there are fewer than ten images for each
    feature (with ten, of pure noise, the floor is a fifth too low), and nearest
    neighbours not at all: there both sets are distinct reals, half of them at most.
    """
    reals, count = judge.reals, judge.samples
    if metric.logits or not metric.featured:
        trained_on = metric.logits and judge.network.reads_labels
        stand_in = judge.test if trained_on else reals
        if stand_in is None or not _has_others(metric, reals):
            return None
        fake = state_of(metric, stand_in, slice(count))
        return judge.states[name], fake, min(count, len(stand_in.label))
    groups = len(np.unique(reals.label)) if metric.labelled else 1
    enough = len(reals.label) // groups >= 10 * reals.vector.shape[1]
    copies = enough and not metric.paired
    real_rows, fake_rows = draw(reals.label, labels, count, copies=copies)
    if metric.paired:
        real_rows = real_rows[: len(fake_rows)]
    states = (state_of(metric, reals, rows) for rows in (real_rows, fake_rows))
    return *states, len(fake_rows)


def _has_others(metric: Metric, reals: Seen) -> bool:
    """Whether what the metric asks was not among the reals that it would train on."""
    test = getattr(metric, "test", None)
    return metric.featured or (test is not None and test.image is not reals.image)


def draw(
    label: Int[np.ndarray, " m"],
    labels: Int[np.ndarray, " n"] | None,
    count: int,
    *,
    copies: bool,
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " l"]]:
    """Two sets of rows of the reals: in the place of reals, and of fakes.

    Args:
      label: of the reals, in random order.
      labels: of the fakes, whose stand-ins have the same, as far as there are any;
        None: all are one class.
      count: fakes.
      copies: draw both with replacement from all; else from one half each.
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
