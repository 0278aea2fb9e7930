"""One set of reals, ready to be compared with any number of sets of fakes."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sagan.data.source import Examples
from sagan.evaluation.protocol import Comparison, check_samples, possible_metrics
from sagan.metrics import METRICS, Measured, Metric, MetricError, Seen
from sagan.metrics.features import (
    Asked,
    FeatureNetwork,
    metric_name,
    of_callable,
    open_features,
)
from sagan.runtime import cache
from sagan.runtime.progress import Progress, silent

Function = Callable[[np.ndarray], Any]
Rows = Int[np.ndarray, " m"] | slice


class Reals(NamedTuple):
    """Real images, for all that needs them.

    Attributes:
      examples: to compare with.
      training: what an embedded feature network is trained on.
      test: others of the same classes, which no training sees; None: there are none.
      classes: of their labels; 0: they have none.
    """

    examples: Examples
    training: Examples
    test: Examples | None = None
    classes: int = 0


class Judge(NamedTuple):
    """What fakes are compared with, and how.

    Attributes:
      network: the features.
      metrics: to compute, by name.
      strict: a number that cannot be had is an error, not a note.
      samples: fakes to compare.
      reals: as the metrics see them.
      test: reals that the feature network was not trained on, if there are any.
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
    test: Seen | None
    states: dict[str, Any]
    facts: dict[str, Any]
    notes: list[str]
    progress: Progress


def open_judge(
    asked: Comparison,
    reals: Reals,
    *,
    labelled: bool,
    available: int | None = None,
    features: Function | None = None,
    progress: Progress = silent,
) -> Judge:
    """Everything that can be computed without a fake.

    Args:
      asked: the choices.
      reals: to compare with.
      labelled: the fakes have labels of the classes of the reals.
      available: the fakes there are, if they are there already.
      features: uint8 images [n h w c] to vectors [n d]; None: asked.features.
      progress: told of everything that takes long.

    Raises:
      ConfigError: this cannot be asked of these images.
    """
    image, label = reals.examples
    check_samples(asked, len(image), available)
    network = _network(asked, reals, features, progress)
    names, notes = possible_metrics(asked, reals.classes if labelled else 0, network)
    samples = asked.samples or _default_samples(network, len(image), available)
    choices = {"splits": asked.splits, "test": reals.test}
    metrics = {name: _configured(METRICS[name], choices) for name in names}
    seen = Seen(image, label, *kept_features(network, image, progress))
    states = {
        name: state_of(metric, seen, slice(samples if metric.paired else None))
        for name, metric in metrics.items()
    }
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
    return Judge(
        network=network,
        metrics=metrics,
        strict=asked.strict,
        samples=samples,
        reals=seen,
        test=_held_out(network, reals.test),
        states=states,
        facts=facts,
        notes=notes,
        progress=progress,
    )


def measure(judge: Judge, fakes: Iterable[Examples]) -> Measured:
    """The numbers of judge.samples fakes, which come in pieces, by their full names.

    Raises:
      MetricError: the features of an image are no numbers, or a metric that was asked
        for by name cannot be had of these images.
    """
    states = {name: metric.empty() for name, metric in judge.metrics.items()}
    for image, label in fakes:
        seen = Seen(image, label, *judge.network.extract(image))
        for name, metric in judge.metrics.items():
            states[name] = metric.update(states[name], seen)
    values, notes = {}, []
    for name, metric in judge.metrics.items():
        try:
            found = metric.compute(judge.states[name], states[name], judge.progress)
        except MetricError as error:
            if judge.strict:
                raise MetricError(f"--metrics {name}: {error}") from error
            notes.append(f"{name} is left out: {error}")
            continue
        values |= full_names(judge, metric, found.values)
        notes += found.notes
    return Measured(values, tuple(notes))


def full_names(
    judge: Judge, metric: Metric, values: Mapping[str, float]
) -> dict[str, float]:
    """Numbers by the names that say whose features they are of."""
    if not metric.featured:
        return dict(values)
    return {metric_name(name, judge.network): v for name, v in values.items()}


def state_of(metric: Metric, seen: Seen, rows: Rows) -> Any:
    """A metric's state of some rows; images are copied for those that keep them."""
    parts = seen._asdict()
    if "image" not in getattr(metric, "keeps", ()) and not isinstance(rows, slice):
        parts["image"] = np.broadcast_to(np.uint8(0), (len(seen.label), 1, 1, 1))
    return metric.update(
        metric.empty(), Seen(**{name: part[rows] for name, part in parts.items()})
    )


def kept_features(
    network: FeatureNetwork, image: np.ndarray, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Features and logits, kept in the cache where all that decides them is known."""

    def make() -> cache.Arrays:
        vector, logits = network.extract(image, progress)
        return {"vector": vector, "logits": logits}

    if network.key is None:
        arrays = make()
    else:
        name = f"features-{network.key}-{cache.digest(image)[:32]}"
        arrays = cache.cached_arrays(name, make)
    return arrays["vector"], arrays["logits"]


def _network(
    asked: Comparison, reals: Reals, features: Function | None, progress: Progress
) -> FeatureNetwork:
    if features is not None:
        return of_callable(features, getattr(features, "__name__", "features"))
    resources = Asked(
        reals.training,
        reals.test,
        reals.classes,
        asked.resize,
        asked.weights_file,
        progress,
    )
    return open_features(asked.features, resources)


def _held_out(network: FeatureNetwork, test: Examples | None) -> Seen | None:
    if test is None or not network.reads_labels:
        return None
    return Seen(*test, *network.extract(test.image))


def _default_samples(network: FeatureNetwork, reals: int, available: int | None) -> int:
    """With an embedded network half the reals, so that the floor has as many."""
    embedded = network.name in ("classifier", "rotation")
    most = min(50_000, reals // 2 if embedded else reals)
    return most if available is None else min(most, available)


def _configured(metric: Metric, choices: Mapping[str, Any]) -> Metric:
    has = {field.name for field in dataclasses.fields(metric)}  # type: ignore
    mine = {name: value for name, value in choices.items() if name in has}
    return dataclasses.replace(metric, **mine)  # type: ignore
