"""Compares any number of sets of generated images with one set of real ones."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from sagan.data.source import Examples
from sagan.evaluation.protocol import Comparison, check_samples, possible_metrics
from sagan.evaluation.reference import (
    Reference,
    assumed_count,
    check_reference,
    image_facts,
)
from sagan.metrics import METRICS, Extracted, Measured, Metric, MetricError
from sagan.metrics.features import (
    EMBEDDED,
    FEATURES,
    FeatureNetwork,
    FeatureRequest,
    metric_name,
    of_callable,
    open_features,
)
from sagan.runtime import cache, exchange, processes
from sagan.runtime.progress import bar

T = TypeVar("T")
Function = Callable[[np.ndarray], Any]
Rows = Int[np.ndarray, " m"] | slice


class Reals(NamedTuple):
    """The real images of an evaluation.

    Attributes:
      examples: Images to compare with; one image of their size if there are statistics.
      training: Images to train an embedded feature network on; without images
        if there are only statistics, and none will be trained.
      test: Other images of the same classes, unseen by any training; None without any.
      classes: Number of classes; 0: there are no labels.
      reference: Statistics in place of the images.
      whole: Whether the images are all that the generator was trained on.
    """

    examples: Examples
    training: Examples
    test: Examples | None = None
    classes: int = 0
    reference: Reference | None = None
    whole: bool = False


class Scorer(NamedTuple):
    """The reals with their features, and the metrics.

    Attributes:
      network: The feature network.
      metrics: Metrics by name.
      strict: Whether an undefined number is an error rather than a note.
      samples: Number of fakes to compare.
      reals: The reals with their features; None: there are only statistics.
      test: Reals that the feature network was not trained on, if there are any.
      states: What each metric has prepared of the reals; if it is `paired`, of as many
        as there are fakes.
      facts: All of this as the card shows it.
      notes: Remarks for the reader.
    """

    network: FeatureNetwork
    metrics: dict[str, Metric]
    strict: bool
    samples: int
    reals: Extracted | None
    test: Extracted | None
    states: dict[str, Any]
    facts: dict[str, Any]
    notes: list[str]


def open_scorer(
    protocol: Comparison,
    reals: Reals,
    *,
    labelled: bool,
    available: int | None = None,
    features: Function | None = None,
) -> Scorer:
    """Computes everything that needs no fakes.

    Args:
      protocol: All choices.
      reals: The real images.
      labelled: Whether the fakes have labels of the reals' classes.
      available: Number of fakes, if they exist already.
      features: Maps uint8 images [n h w c] to vectors [n d]; None: protocol.features.

    Raises:
      ConfigError: These choices do not fit these images.
    """
    image, label = reals.examples
    reference = reals.reference
    count = len(image) if reference is None else assumed_count(reference)
    check_samples(protocol, count, available, images=not reference)
    network = open_network(protocol, reals, features)
    known = reals.classes if labelled else 0
    own = reals.training.image is image and not reference
    kinds = {"images": not reference, "unseen": reals.whole and reals.test is not None}
    names, notes = possible_metrics(protocol, known, network, **kinds)
    samples = protocol.samples or _default_samples(network, count, available)
    test = reals.test if network.reads_labels or "memorisation" in names else None
    held_out = test and Extracted(*test, *cached_features(network, test.image))
    choices = {"splits": protocol.splits, "test": reals.test, "held_out": held_out}
    choices |= {"reverse": not (own and network.reads_labels)}
    metrics = {name: _configured(METRICS[name], choices) for name in names}
    facts = _facts(protocol, reals, network, samples)
    if reference is None:
        extracted = Extracted(image, label, *cached_features(network, image))
        kept = {m: slice(samples if metrics[m].paired else None) for m in names}
        states = {m: state_of(metrics[m], extracted, kept[m]) for m in names}
    else:
        check_reference(reference, image, network)
        extracted, states = None, dict.fromkeys(names, reference.moments())
    states = {m: metrics[m].prepare(state) for m, state in states.items()}
    return Scorer(
        network=network,
        metrics=metrics,
        strict=protocol.strict,
        samples=samples,
        reals=extracted,
        test=held_out,
        states=states,
        facts=facts | {"metrics": ", ".join(names)},
        notes=notes,
    )


def _facts(
    protocol: Comparison, reals: Reals, network: FeatureNetwork, samples: int
) -> dict[str, Any]:
    """Everything but the metrics that the numbers depend on."""
    (image, label), reference = reals.examples, reals.reference
    return {
        "reals": reference.count if reference else len(image),
        "reals sha256": reference.digest() if reference else cache.digest(image, label),
        **image_facts(image, network),
        "samples": samples,
        "splits of the Inception Score": protocol.splits,
    }


def score(
    scorer: Scorer,
    fakes: Iterable[Examples],
    take: Callable[[Extracted], None] | None = None,
) -> Measured:
    """Numbers for scorer.samples fakes, which come in pieces, by their full names.

    `take` gets each piece with its features, to keep it. Each of several processes
    passes its own part of the fakes, in their order; only the first gets numbers.

    Raises:
      MetricError: A feature is not finite, or a metric that was requested by name is
        not defined for these images.
    """
    keeps_images = any("image" in m.keeps for m in scorer.metrics.values())
    images = bool(take) or keeps_images
    pieces = _extract(scorer.network, fakes, scorer.samples, images=images)
    measured = Measured({})
    with exchange.together():
        if processes.is_main():
            measured = _measure(scorer, pieces, take)
    return measured


def _measure(
    scorer: Scorer,
    pieces: Iterable[Extracted],
    take: Callable[[Extracted], None] | None,
) -> Measured:
    """`score` of all fakes, with their features."""
    states = {name: metric.empty() for name, metric in scorer.metrics.items()}
    for extracted in pieces:
        if take:
            take(extracted)
        for name, metric in scorer.metrics.items():
            states[name] = metric.update(states[name], extracted)
    values, notes = {}, []
    for name, metric in scorer.metrics.items():
        try:
            measured = metric.compute(scorer.states[name], states[name], bar)
        except MetricError as error:
            if scorer.strict:
                raise MetricError(f"--metrics {name}: {error}") from error
            notes.append(f"{name} is left out: {error}")
            continue
        values |= full_names(scorer, metric, measured.values)
        notes += measured.notes
    return Measured(values, tuple(notes))


def _extract(
    network: FeatureNetwork, fakes: Iterable[Examples], count: int, *, images: bool
) -> Iterable[Extracted]:
    """The pieces with their features; those of several processes in one."""
    pieces = (Extracted(*piece, *network.extract(piece.image)) for piece in fakes)
    if processes.index_and_count()[1] == 1:
        return pieces
    with exchange.together():
        mine = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
    if not images:
        mine[0] = mine[0][:, :1, :1, :1]
    return [Extracted(*(exchange.join_rows(x)[:count] for x in mine))]


def full_names(scorer: Scorer, metric: Metric, values: Mapping[str, T]) -> dict[str, T]:
    """Adds the feature network's name to the names of numbers that depend on it."""
    if not metric.featured:
        return dict(values)
    return {metric_name(name, scorer.network): v for name, v in values.items()}


def state_of(metric: Metric, extracted: Extracted, rows: Rows) -> Any:
    """A metric's state of some rows; copies images only if the metric keeps them."""
    parts = extracted._asdict()
    if "image" not in metric.keeps and not isinstance(rows, slice):
        parts["image"] = np.broadcast_to(np.uint8(0), (len(extracted.label), 1, 1, 1))
    return metric.update(
        metric.empty(), Extracted(**{name: part[rows] for name, part in parts.items()})
    )


def cached_features(
    network: FeatureNetwork, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features and logits; cached if everything that decides them is known.

    Each of several processes, which all have the same images, extracts a part.
    """
    name = f"features-{network.key}-{cache.digest(image)[:32]}"
    arrays = cache.read_arrays(name) if network.key else {}
    if not exchange.all_have(bool(arrays)):
        mine = exchange.share(len(image))
        with exchange.together():
            outputs = network.extract(image[mine.start : mine.stop], bar)
        vector, logits = (exchange.join_rows(x)[: len(image)] for x in outputs)
        arrays = {"vector": vector, "logits": logits}
        if network.key:
            cache.keep_arrays(name, arrays)
    return arrays["vector"], arrays["logits"]


def open_network(
    protocol: Comparison, reals: Reals, features: Function | None
) -> FeatureNetwork:
    """The feature network of a comparison; `features` replaces protocol.features."""
    if features is not None:
        return of_callable(features, getattr(features, "__name__", "features"))
    choices = (protocol.resize, protocol.weights_file, bar)
    request = FeatureRequest(reals.training, reals.test, reals.classes, *choices)
    return open_features(feature_name(protocol, reals.reference), request)


def feature_name(protocol: Comparison, reference: Reference | None) -> str:
    """protocol.features; for auto that of the statistics, if they name one of ours."""
    named = reference.facts.get("features", "") if reference else ""
    chosen = protocol.features == "auto" and named in FEATURES
    return named if chosen else protocol.features  # never import what a file names


def trains_features(
    protocol: Comparison, reference: Reference | None, features: Function | None
) -> bool:
    """Whether a feature network may have to be trained for these choices."""
    name = feature_name(protocol, reference)
    return features is None and name in ("auto", *EMBEDDED)


def _default_samples(network: FeatureNetwork, reals: int, available: int | None) -> int:
    """Half the reals with an embedded network: the baseline then has as many."""
    embedded = network.name in EMBEDDED
    most = min(50_000, reals // 2 if embedded else reals)
    return most if available is None else min(most, available)


def _configured(metric: Metric, choices: Mapping[str, Any]) -> Metric:
    names = choices.keys() & {field.name for field in dataclasses.fields(metric)}
    return dataclasses.replace(metric, **{name: choices[name] for name in names})
