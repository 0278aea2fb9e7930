"""The samples of an evaluation, for any weights and batch statistics."""

import collections
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from sagan.config.schema import Config
from sagan.data.source import Examples, Source
from sagan.evaluation.protocol import Protocol
from sagan.runtime import exchange
from sagan.runtime.progress import bar
from sagan.sampling import sampler
from sagan.state import GANState, generator_variables

_CHUNK = 1024  # images that are generated before the feature network sees them
_ORDER_SEED = 0  # of the labels

MODES = {
    "moving": "moving: raw weights with their running averages of batch statistics; EMA"
    " weights with the EMA of these",
    "standing": f"standing: batch statistics recomputed over {sampler.STANDING_BATCHES}"
    " batches with the weights that are evaluated",
    "batch": "batch: each generated batch is normalised by its own moments",
}


class GeneratedSamples(NamedTuple):
    """Draws samples from any state of a run.

    Attributes:
      config: The run's config; data.classes is a number.
      protocol: The evaluation's protocol.
      labels: Labels of the samples; random ones are those of the first seed.
      samplers: Samplers by batch-norm mode.
      standing: Recomputes batch statistics.
    """

    config: Config
    protocol: Protocol
    labels: Int32[np.ndarray, " n"]
    samplers: dict[str, sampler.Sampler]
    standing: Callable[..., dict[str, Any]]


def open_samples(
    config: Config, protocol: Protocol, labels: Int32[np.ndarray, " n"]
) -> GeneratedSamples:
    """Prepares to draw; nothing is compiled before the first sample."""
    samplers = {
        mode: sampler.make_sampler(config, batch_statistics=mode == "batch")
        for mode in protocol.chosen_batch_norm()
    }
    standing = sampler.make_standing(config)
    return GeneratedSamples(config, protocol, labels, samplers, standing)


def even_labels(count: int, classes: int) -> Int32[np.ndarray, " n"]:
    """Equal numbers of all classes, in a fixed random order."""
    even = np.resize(np.arange(max(classes, 1), dtype=np.int32), count)
    return np.random.default_rng(_ORDER_SEED).permutation(even)


def random_labels(seed: int, count: int, classes: int) -> Int32[np.ndarray, " n"]:
    """Labels drawn evenly from all classes."""
    drawn = np.random.default_rng(seed).integers(classes, size=count)
    return drawn.astype(np.int32)


def choose_labels(
    protocol: Protocol,
    source: Source,
    reals: Int[np.ndarray, " m"],
    count: int,
    classes: int,
) -> tuple[Int32[np.ndarray, " n"], str, list[str]]:
    """Labels of `count` samples, their kind, and a note if it was not asked for.

    Args:
      protocol: Its `labels` is the kind, or auto.
      source: The split of the reals, whose classes auto counts.
      reals: Labels of the reals, in random order.
      count: Number of samples.
      classes: Number of classes; 0: the kind is none.
    """
    kind, notes = protocol.labels if classes else "none", []
    if kind == "auto":
        known = source.has_labels_at_hand
        label = source.labels(np.arange(len(source))) if known else reals
        found = collections.Counter(label.tolist())
        least, most = (op(found[k] for k in range(classes)) for op in (min, max))
        sigmas = 0 if known else 3  # chance alone makes counts of some reals unequal
        low, high = least + sigmas * math.sqrt(least), most - sigmas * math.sqrt(most)
        kind = "real" if 5 * low < 4 * high else "uniform"
        images = f"{least:,} to {most:,} images" + ("" if known else " of those read")
        notes.append(f"labels of the samples: {kind}, as classes have {images}")
    if kind == "random":
        return random_labels(protocol.seed, count, classes), kind, notes
    if kind == "real":
        return np.resize(reals, count).astype(np.int32), kind, notes
    return even_labels(count, classes), kind, notes


def draw_samples(
    samples: GeneratedSamples,
    state: GANState,
    average: int | None,
    mode: str,
    seed: int,
) -> Iterator[Examples]:
    """Draws the samples in pieces, with their labels: this process's share of them.

    Args:
      samples: The run's samples.
      state: The state to draw from.
      average: Index of an average; None: the raw weights.
      mode: Mode of batch normalisation, one of MODES.
      seed: Seed of the latents.
    """
    batch, truncation = samples.config.data.batch, samples.protocol.truncation
    variables = generator_variables(state, average)
    if mode == "standing":
        variables = samples.standing(variables, seed, truncation)
    labels = samples.labels
    if samples.protocol.labels == "random" and samples.config.data.classes:
        labels = random_labels(seed, len(labels), samples.config.data.classes)
    mine = exchange.share(-(-len(labels) // batch))
    labels = labels[mine.start * batch : mine.stop * batch]
    pieces = sampler.samples(
        samples.config,
        variables,
        labels,
        seed=seed,
        first=mine.start * batch,
        truncation=truncation,
        batch=batch,
        sampler=samples.samplers[mode],
    )
    length = batch * -(-_CHUNK // batch)
    starts = range(0, len(labels), length)
    for start in bar(starts, f"step {int(state.step)}, {mode} statistics"):
        label = labels[start : start + length]
        images = list(itertools.islice(pieces, -(-len(label) // batch)))
        yield Examples(np.concatenate(images), label)
