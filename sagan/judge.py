"""One set of reals, ready to be compared with any number of sets of fakes."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sagan import cache
from sagan.imagesets import ImageSet
from sagan.metrics import METRICS, Measured, Metric, MetricError, Seen
from sagan.metrics.features import (
    Asked,
    FeatureNetwork,
    metric_name,
    of_callable,
    open_features,
)
from sagan.metrics.protocol import Progress, silent
from sagan.protocol import Comparison, check_samples, possible_metrics
from sagan.source import Examples

FLOOR_SEED = 0  # of the reals that take the place of fakes
Function = Callable[[np.ndarray], Any]


class Judge(NamedTuple):
    """What fakes are compared with, and how.

    Attributes:
      network: the features.
      metrics: to compute, by name.
      strict: a number that cannot be had is an error, not a note.
      samples: fakes to compare.
      reals: as the metrics see them.
      states: of the reals, by metric; of as many as the fakes if it is `paired`.
      facts: what the card says of all this.
      notes: what a reader must know.
      progress: told of everything that takes long.
    """

    network: FeatureNetwork
    metrics: dict[str, Metric]
    strict: bool
    samples: int
    reals: Seen
    states: dict[str, Any]
    facts: dict[str, Any]
    notes: list[str]
    progress: Progress


class Floor(NamedTuple):
    """A number of reals beside reals.

    Attributes:
      value: of it.
      samples: reals in the place of fakes.
    """

    value: float
    samples: int


def open_judge(
    asked: Comparison,
    reals: ImageSet,
    training: Examples,
    test: Examples | None,
    *,
    samples: int | None = None,
    features: Function | None = None,
    progress: Progress = silent,
) -> Judge:
    """Everything that can be computed without a fake.

    Args:
      asked: the choices.
      reals: to compare with.
      training: what an embedded feature network is trained on.
      test: reals that it does not see.
      samples: the fakes there are, if they are there already.
      features: a function from uint8 images [n h w c] to vectors [n d], in the place of
        asked.features.
      progress: told of everything that takes long.

    Raises:
      ConfigError: this cannot be asked of these images.
    """
    image, label = reals.examples
    if asked.samples is not None:
        samples = asked.samples
    check_samples(asked, samples, len(image))
    if features is None:
        resources = Asked(
            training, test, reals.classes, asked.resize, asked.weights_file, progress
        )
        network = open_features(asked.features, resources)
    else:
        network = of_callable(features, getattr(features, "__name__", "features"))
    names, notes = possible_metrics(asked, reals.classes, network)
    samples = samples or _default_samples(network, len(image))
    metrics = {name: _configured(METRICS[name], asked.splits, test) for name in names}
    seen = Seen(image, label, *_features(network, image, progress))
    facts = {
        "reals": len(image),
        "reals sha256": cache.digest(image, label),
        "image": "x".join(map(str, image.shape[1:])),
        "features": network.name,
        "features sha256": network.digest,
        **network.about,
        "samples": samples,
        "metrics": ", ".join(names),
        "splits of the Inception Score": asked.splits,
    }
    paired, all_of_them = np.arange(samples), np.arange(len(image))
    states = {
        name: _state(metric, seen, paired if metric.paired else all_of_them)
        for name, metric in metrics.items()
    }
    strict = asked.metrics != "all"
    return Judge(
        network, metrics, strict, samples, seen, states, facts, notes, progress
    )


def measure(judge: Judge, fakes: Iterable[Examples]) -> Measured:
    """The numbers of judge.samples fakes, which come in pieces, by their full names.

    Raises:
      MetricError: the features of an image are no numbers, or a metric that was asked
        for by name cannot be had of these images.
    """
    states = {name: metric.empty() for name, metric in judge.metrics.items()}
    for image, label in fakes:
        vector, logits = judge.network.extract(image)
        seen = Seen(image, label, vector, logits)
        for name, metric in judge.metrics.items():
            states[name] = metric.update(states[name], seen)
    values, notes = {}, []
    for name, metric in judge.metrics.items():
        found = _compute(judge, name, metric, judge.states[name], states[name])
        values |= found.values
        notes += found.notes
    return Measured(values, tuple(notes))


def floor(judge: Judge) -> dict[str, Floor]:
    """The numbers of reals in the place of the fakes: what a perfect generator gets.

    Reals and "fakes" are drawn with replacement from the reals, as many as there are of
    each: as far as the bias of a number depends on how many there are, that of the
    floor is the same. Nearest neighbours cannot bear copies: for metrics that are
    `paired` both sets are distinct reals, as many as the fakes if there are twice as
    many reals, else half of the reals each.
    """
    rng = np.random.default_rng(FLOOR_SEED)
    total = len(judge.reals.label)
    drawn = rng.integers(0, total, judge.samples), rng.integers(0, total, total)
    half = min(judge.samples, total // 2)
    apart = np.arange(half), half + np.arange(half)
    floors = {}
    for name, metric in judge.metrics.items():
        fake, real = apart if metric.paired else drawn
        real_state = (
            _state(metric, judge.reals, real) if metric.featured else judge.states[name]
        )
        fake_state = _state(metric, judge.reals, fake)
        found = _compute(judge, name, metric, real_state, fake_state)
        floors |= {key: Floor(value, len(fake)) for key, value in found.values.items()}
    return floors


def _compute(judge: Judge, name: str, metric: Metric, real: Any, fake: Any) -> Measured:
    try:
        found = metric.compute(real, fake, judge.progress)
    except MetricError as error:
        if judge.strict:
            raise MetricError(f"{name}: {error}") from error
        return Measured({}, (f"{name} is left out: {error}",))
    if not metric.featured:
        return found
    named = {metric_name(k, judge.network): v for k, v in found.values.items()}
    return Measured(named, found.notes)


def _default_samples(network: FeatureNetwork, reals: int) -> int:
    """With an embedded network half the reals, so that the floor has as many."""
    embedded = network.name in ("classifier", "rotation")
    return min(50_000, reals // 2 if embedded else reals)


def _features(
    network: FeatureNetwork, image: np.ndarray, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Of the reals: kept in the cache where the network can be told by its digest."""

    def make() -> cache.Arrays:
        vector, logits = network.extract(image, progress)
        return {"vector": vector, "logits": logits}

    if network.digest == "not known":
        arrays = make()
    else:
        of = f"{network.digest[:16]}-{network.about.get('resize', '')[:5].strip(', ')}"
        arrays = cache.kept(
            f"features-{network.name}-{of}-{cache.digest(image)[:32]}", make
        )
    return arrays["vector"], arrays["logits"]


def _configured(metric: Metric, splits: int, test: Examples | None) -> Metric:
    choices: Mapping[str, Any] = {"splits": splits, "test": test}
    has = {field.name for field in dataclasses.fields(metric)}  # type: ignore
    mine = {name: value for name, value in choices.items() if name in has}
    return dataclasses.replace(metric, **mine)  # type: ignore


def _state(metric: Metric, seen: Seen, rows: Int[np.ndarray, " m"]) -> Any:
    chosen = Seen(*(part[rows] for part in seen))
    return metric.update(metric.empty(), chosen)
