"""Baselines: what a perfect generator would get, from real images alone."""

import math
import statistics
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sagan.evaluation.scoring import Scorer, full_names, state_of
from sagan.metrics import Extracted, Metric, MetricError
from sagan.metrics.interface import ESTIMATE, MEASURED, UPPER, Baseline, is_spread
from sagan.runtime.progress import bar

DRAWS = 5
_SEED = 0  # of the draws
_MOST = 10_000  # images of a set in a draw that is extrapolated
_EXACTNESS = (ESTIMATE, MEASURED, UPPER)
_MOST_GAP = 0.1  # total variation between labels above which nothing is extrapolated

Counts = Int[np.ndarray, " k"]


def baselines(
    scorer: Scorer,
    labels: Int[np.ndarray, " n"] | None,
    *,
    random: bool = False,
    draws: int = DRAWS,
) -> tuple[dict[str, Baseline], list[str]]:
    """Every number of real images in place of fakes, and notes on those without.

    Numbers from a classifier's logits are those of held-out reals. Others compare
    disjoint random sets of reals, and those proportional to a known function of the
    numbers of images are scaled to the numbers of the comparison.

    Args:
      scorer: Holds the reals.
      labels: Labels of the fakes; None: they have none.
      random: Whether the labels were drawn at random.
      draws: Number of pairs of sets.
    """
    values: dict[str, Baseline] = {}
    notes = []
    reals = scorer.reals
    if reals is None:
        return {}, ["no baseline: it needs the images of the reals"]
    if labels is None:
        reals = reals._replace(label=np.zeros_like(reals.label))
        labels = np.zeros(scorer.samples, np.int32)
    for name, metric in scorer.metrics.items():
        try:
            if metric.no_baseline:
                raise MetricError(metric.no_baseline)
            if metric.logits or not metric.featured:
                found = _of_held_out(scorer, reals, name, metric)
            else:
                rng = np.random.default_rng(_SEED)
                drawn = bar(range(draws), f"{name} between reals")
                found = _joined(
                    _between_reals(reals, name, metric, labels, random, rng)
                    for _ in drawn
                )
        except MetricError as error:
            notes.append(f"{name}: no baseline: {error}")
            continue
        if metric.extrapolated and metric.labelled and name not in found:
            notes.append(f"{name}: no baseline: a class has fewer than four reals")
        values |= full_names(scorer, metric, found)
    return values, notes


def _of_held_out(
    scorer: Scorer, reals: Extracted, name: str, metric: Metric
) -> dict[str, Baseline]:
    """Numbers of held-out reals, which no classifier was trained on, as fakes."""
    count = scorer.samples
    trained_on = metric.logits and scorer.network.reads_labels
    stand_in = scorer.test if trained_on else reals
    if stand_in is None or not _has_others(metric, reals):
        raise MetricError("there are no held-out reals")
    number = min(count, len(stand_in.label))
    if metric.grows_with_samples and number < count:
        raise MetricError(f"the held-out reals are {number}, the samples {count}")
    fake = state_of(metric, stand_in, slice(count))
    values = metric.compute(scorer.states[name], fake, bar).values
    label = stand_in.label[:count]
    found = {}
    for key, value in values.items():
        if key in metric.in_sample or is_spread(key) or key.startswith("confused"):
            continue
        _, _, k = key.partition("/")
        samples = int((label == int(k)).sum()) if k else number
        found[key] = Baseline(value, samples, len(reals.label))
    return found


def _has_others(metric: Metric, reals: Extracted) -> bool:
    """Whether the metric has reals to test on besides those that it trains on."""
    test = getattr(metric, "test", None)
    return metric.featured or (test is not None and test.image is not reals.image)


class _Sizes(NamedTuple):
    """Image counts by class, in the comparison and in one draw.

    Attributes:
      reals: Reals of the comparison.
      fakes: Fakes of the comparison.
      real: Reals in place of the reals.
      fake: Reals in place of the fakes.
      same_shares: Whether both sets have nearly the same shares of classes.
    """

    reals: Counts
    fakes: Counts
    real: Counts
    fake: Counts
    same_shares: bool

    def total(self, label: Any = slice(None)) -> tuple[int, int, int, int]:
        """The four numbers, of all classes or of one."""
        m, n, a, b = (int(np.sum(part[label])) for part in self[:4])
        return m, n, a, b


def _between_reals(
    reals: Extracted,
    name: str,
    metric: Metric,
    labels: Int[np.ndarray, " n"],
    random: bool,
    rng: np.random.Generator,
) -> dict[str, Baseline]:
    """One draw: disjoint sets of reals, compared and scaled."""
    label = reals.label
    classes = 1 + max(int(label.max()), int(labels.max()))
    if random:
        labels = rng.integers(classes, size=len(labels))
    numbers = (np.bincount(part, minlength=classes) for part in (label, labels))
    if not metric.extrapolated:
        sizes = half_sizes(*numbers)
    elif metric.labelled:
        sizes = class_sizes(*numbers)
    else:
        sizes = split_sizes(*numbers, random=random)
    real, fake = _draw(label, sizes, rng)
    if metric.paired:
        real, fake = (rows[: min(len(real), len(fake))] for rows in (real, fake))
    states = (state_of(metric, reals, rows) for rows in (real, fake))
    values = metric.compute(*states).values
    values = {key: value for key, value in values.items() if not is_spread(key)}
    if not metric.extrapolated:
        return {key: Baseline(v, len(fake), len(real)) for key, v in values.items()}
    features = reals.vector.shape[1]
    found = {
        key: _scaled(metric, value, sizes, features, key.partition("/")[2])
        for key, value in values.items()
    }
    if metric.labelled:
        parts = [part for key, part in found.items() if "/" in key]
        compared = (sizes.reals >= 2) & (sizes.fakes >= 2)  # by the metric itself
        del found[name]
        if len(parts) == compared.sum():
            found[name] = _mean(parts)
    return found


def _mean(classes: list[Baseline]) -> Baseline:
    """The mean over classes, with their mean numbers of images."""
    value, samples, reals = np.mean([one[:3] for one in classes], axis=0).tolist()
    exact = all(one.kind == ESTIMATE for one in classes)
    kind = ESTIMATE if exact else UPPER
    return Baseline(value, round(samples), round(reals), None, kind)


def _scaled(
    metric: Metric, value: float, sizes: _Sizes, features: int, label: str
) -> Baseline:
    """A number of one draw, for the numbers of images of the comparison."""
    m, n, a, b = sizes.total(int(label) if label else slice(None))
    few = 3 * n <= m  # as many stand in: only the number of reals is another
    known = not metric.fits_gaussians or few or a + b >= 2 * features
    if not known or not (label or sizes.same_shares):
        return Baseline(value, b, a, None, UPPER if metric.fits_gaussians else MEASURED)
    scale = (1 / m + 1 / n) / (1 / a + 1 / b)
    if metric.fits_gaussians and few:
        # the fewer fakes for the features, the less the number of reals matters: not at
        # all below half of these, fully above twice as many (measured)
        scale **= min(max(math.log2(2 * b / features) / 2, 0), 1)
    return Baseline(value * scale, n, m, None, ESTIMATE)


def _joined(draws: Any) -> dict[str, Baseline]:
    """Means over the draws, and sample standard deviations."""
    found: defaultdict[str, list[Baseline]] = defaultdict(list)
    for draw in draws:
        for name, one in draw.items():
            found[name].append(one)
    return {
        name: each[0]._replace(
            value=statistics.fmean(one.value for one in each),
            std=statistics.stdev(one.value for one in each) if each[1:] else None,
            kind=max((one.kind for one in each), key=_EXACTNESS.index),
        )
        for name, each in found.items()
    }


def half_sizes(reals: Counts, fakes: Counts) -> _Sizes:
    """Half of the reals of each class, beside at most as many as there are fakes."""
    half = reals // 2
    return _Sizes(reals, fakes, reals - half, np.minimum(half, fakes), True)


def class_sizes(reals: Counts, fakes: Counts) -> _Sizes:
    """split_sizes of each class by itself."""
    each = [_set_sizes(int(m), int(n)) for m, n in zip(reals, fakes, strict=True)]
    real, fake = np.array(each).T
    return _Sizes(reals, fakes, real, fake, True)


def _set_sizes(m: int, n: int) -> tuple[int, int]:
    """Sizes of the sets for m reals and n fakes; at least 2 for a covariance."""
    if 3 * n <= m:
        return min(m - n, max(_MOST, n)), n
    m, share = min(m, 2 * _MOST), min(max(m / (m + n), 1 / 3), 2 / 3)
    real = round(m * share)
    real = min(max(real, 2), m - 2) if m >= 4 else real
    return real, m - real


def split_sizes(reals: Counts, fakes: Counts, *, random: bool = False) -> _Sizes:
    """Sizes of two disjoint sets of reals, by class, for a number that is scaled.

    They take all reals, up to _MOST each; where the fakes are few there are as many
    stand-ins. The square of a difference between the shares of both sets adds to a
    distance, and is enlarged here as much as the scaling reduces it.

    Args:
      reals: Numbers of reals by class.
      fakes: Numbers of fakes by class, whose shares the stand-ins have.
      random: Whether the fakes' labels were drawn at random.

    Raises:
      MetricError: A class has too few reals to stand in for its fakes.
    """
    m, n = int(reals.sum()), int(fakes.sum())
    a, b = _set_sizes(m, n)
    wanted = np.where(reals, fakes, 0)
    if wanted.sum() < 0.99 * n:
        raise MetricError("a class of the samples has no reals")
    shares = wanted / wanted.sum()
    gap = reals / m - shares
    chance = math.sqrt(len(reals) / m) + math.sqrt(len(reals) / n) * random
    same_shares = bool(np.abs(gap).sum() / 2 <= _MOST_GAP + 0.4 * chance)
    fit, real, fake = 1.0, np.zeros(0), np.zeros(0)
    for _ in range(4):  # each class must have as many reals
        enlarged = (
            math.sqrt((1 / a + 1 / b) / fit / (1 / m + 1 / n)) if same_shares else 1.0
        )
        real = fit * a * np.maximum(shares + enlarged * gap, 0)
        fake = fit * b * shares
        used = real + fake
        fit *= min(1, float(np.min(reals[used > 0] / used[used > 0], initial=1)))
    if fit < 0.8:  # rather fewer stand-ins for the fakes than fewer of both
        same_shares, rarest = False, np.min(reals[shares > 0] / shares[shares > 0])
        fewer = min(b, float(rarest) / 2)
        if 5 * fewer < n:
            raise MetricError("a class has too few reals for its share of the samples")
        fake = fewer * shares
        real = reals * np.min(1 - fake[reals > 0] / reals[reals > 0])
    fake = np.minimum(np.floor(fake + 0.5).astype(int), reals)
    real = np.clip(np.floor(real + 0.5).astype(int), 0, reals - fake)
    return _Sizes(reals, fakes, real, fake, same_shares)


def _draw(
    label: Int[np.ndarray, " m"], sizes: _Sizes, rng: np.random.Generator
) -> list[Int[np.ndarray, " k"]]:
    """Rows of two disjoint sets of these sizes, each in random order."""
    real, fake = [], []
    for k, (a, b) in enumerate(zip(sizes.real, sizes.fake, strict=True)):
        rows = rng.permutation(np.flatnonzero(label == k))
        real.append(rows[:a])
        fake.append(rows[len(rows) - b :])
    return [rng.permutation(np.concatenate(rows)) for rows in (real, fake)]
