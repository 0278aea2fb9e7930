"""Everything that the evaluations of a run's states share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sagan.checkpoints.restore import data_notes, open_data
from sagan.config.schema import Config, ConfigError
from sagan.data.pipeline import open_source, resolve
from sagan.data.source import Examples, Source
from sagan.evaluation import generated, image_sets, scoring
from sagan.evaluation.baseline import DRAWS, baselines
from sagan.evaluation.protocol import Protocol, check_labels, check_protocol
from sagan.evaluation.reference import check_size, read_reference
from sagan.evaluation.scoring import Function, Scorer
from sagan.metrics.interface import Baseline
from sagan.runtime import exchange
from sagan.runtime.progress import first_few


class PreparedEvaluation(NamedTuple):
    """Everything that the evaluations of a run's states share.

    Attributes:
      scorer: Holds the reals.
      samples: Draws the samples.
      baselines: Baselines by name, and notes; computed at the first call.
      facts: The protocol as the card shows it.
      class_names: Names of the classes, by label.
      notes: Remarks for the reader.
    """

    scorer: Scorer
    samples: generated.GeneratedSamples
    baselines: Callable[[], tuple[dict[str, Baseline], list[str]]]
    facts: dict[str, Any]
    class_names: tuple[str, ...]
    notes: list[str]


def prepare_evaluation(
    config: Config,
    protocol: Protocol,
    workdir: Path | None = None,
    *,
    source: Source | None = None,
    features: Function | None = None,
) -> PreparedEvaluation:
    """Reads the reals and opens the feature network.

    Args:
      config: The run's config.
      protocol: All choices.
      workdir: The run's directory, to compare the data with those of the run.
      source: The training images, if they are open already.
      features: Replaces protocol.features: see scoring.open_scorer.

    Raises:
      ConfigError: The data or the features are not available, or not for this metric.
    """
    check_protocol(protocol)
    notes, trained_on = [], source
    split = protocol.split or config.data.split
    with exchange.together():
        if trained_on is None:
            trained_on = open_data(workdir, config) if workdir else open_source(config)
            notes = data_notes(workdir, trained_on) if workdir else []
        config = resolve(config, trained_on)
        classes = config.data.classes or 0
        check_labels(protocol, classes)
        source = _open_split(config, split, trained_on)
        reals = _open_reals(config, protocol, source, trained_on, features)
    scorer = scoring.open_scorer(
        protocol, reals, labelled=classes > 0, features=features
    )
    label = (scorer.reals or reals.training).label
    labels, kind, why = generated.choose_labels(
        protocol, source, label, scorer.samples, classes
    )
    facts = {
        "real split": f"{config.data.name}, {split}" if scorer.reals else "statistics",
        **scorer.facts,
        "labels of the samples": kind,
        "truncation": protocol.truncation,
        "seeds": ", ".join(map(str, protocol.every_seed())),
        "batch of the generator": config.data.batch,
    }
    asked = labels if classes else None
    draws = max(DRAWS, protocol.seeds)
    how = {"random": kind == "random", "draws": draws}
    baseline = functools.cache(lambda: baselines(scorer, asked, **how))
    drawn = generated.open_samples(config, protocol, labels)
    notes = [*notes, *why, *scorer.notes]
    return PreparedEvaluation(
        scorer, drawn, baseline, facts, trained_on.class_names, notes
    )


def _open_reals(
    config: Config,
    protocol: Protocol,
    source: Source,
    trained_on: Source,
    features: Function | None,
) -> scoring.Reals:
    """The images of a source, or the statistics of the protocol, and how to extract.

    Beside statistics no images are read that only a trained feature network needs.
    """
    classes = config.data.classes or 0
    reference = read_reference(protocol.reference) if protocol.reference else None
    if reference:
        examples = source.examples(np.arange(1))
        check_size(reference, examples.image)
        trained = scoring.trains_features(protocol, reference, features)
        if source.has_labels_at_hand and not trained:
            chosen = image_sets.order(len(source))[: image_sets.TRAINING]
            labels = Examples(examples.image[:0], source.labels(chosen))
            return scoring.Reals(examples, labels, None, classes, reference)
    else:
        examples = image_sets.of_source(source, protocol.reals)
    training, test = image_sets.for_features(config, source, examples, trained_on)
    whole = source is trained_on and len(examples.label) == len(source)
    return scoring.Reals(examples, training, test, classes, reference, whole)


def _open_split(config: Config, split: str, trained_on: Source) -> Source:
    """The split of the reals; the open one if the run was trained on it."""
    if split == config.data.split:
        return trained_on
    source, names = open_source(config, split), trained_on.class_names
    if source.class_names != names:
        raise ConfigError(
            f"--split {split}: has the classes {first_few(source.class_names)}; the"
            f" run was trained on {first_few(names)}"
        )
    return source
