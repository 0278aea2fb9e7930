"""The samples of an evaluation, for each kind of weights and of batch statistics."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from sagan.config.schema import Config
from sagan.data.source import Examples
from sagan.evaluation.protocol import Protocol
from sagan.runtime.progress import Progress, silent
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


class Fakes(NamedTuple):
    """What draws samples of any state of a run.

    Attributes:
      config: of the run, with its classes.
      protocol: of the evaluation.
      labels: of the samples.
      samplers: by batch-norm mode.
      standing: recomputes batch statistics.
      progress: counts the samples.
    """

    config: Config
    protocol: Protocol
    labels: Int32[np.ndarray, " n"]
    samplers: dict[str, sampler.Sampler]
    standing: Callable[..., dict[str, Any]]
    progress: Progress


def open_fakes(
    config: Config,
    protocol: Protocol,
    labels: Int32[np.ndarray, " n"],
    progress: Progress = silent,
) -> Fakes:
    """Nothing is compiled before it is drawn."""
    samplers = {
        mode: sampler.make_sampler(config, batch_statistics=mode == "batch")
        for mode in protocol.chosen_batch_norm()
    }
    standing = sampler.make_standing(config, progress)
    return Fakes(config, protocol, labels, samplers, standing, progress)


def even_labels(count: int, classes: int) -> Int32[np.ndarray, " n"]:
    """As many of each class as of any other, in an order that is always the same."""
    even = np.resize(np.arange(max(classes, 1), dtype=np.int32), count)
    return np.random.default_rng(_ORDER_SEED).permutation(even)


def draw(
    fakes: Fakes, state: GANState, average: int | None, mode: str, seed: int
) -> Iterator[Examples]:
    """The samples in pieces, with their labels.

    Args:
      fakes: of the run.
      state: to draw from.
      average: the index of an average; None: the raw weights.
      mode: of batch normalisation, one of MODES.
      seed: of the latents.
    """
    batch, truncation = fakes.config.data.batch, fakes.protocol.truncation
    variables = generator_variables(state, average)
    if mode == "standing":
        variables = fakes.standing(variables, seed, truncation)
    pieces = sampler.samples(
        fakes.config,
        variables,
        fakes.labels,
        seed=seed,
        truncation=truncation,
        batch=batch,
        sampler=fakes.samplers[mode],
    )
    length = batch * -(-_CHUNK // batch)
    starts = range(0, len(fakes.labels), length)
    what = f"step {int(state.step)}, {mode} statistics"
    for start in fakes.progress(starts, what):
        label = fakes.labels[start : start + length]
        images = list(itertools.islice(pieces, -(-len(label) // batch)))
        yield Examples(np.concatenate(images), label)
