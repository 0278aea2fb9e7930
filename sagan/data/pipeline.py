"""Batches as a pure function of the seed and the step."""

import contextlib
import os
import sys
from collections.abc import Generator, Sequence
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8, UInt64

from sagan.config.fields import replace
from sagan.config.schema import Config, ConfigError
from sagan.data.bucket import local_data
from sagan.data.datasets import open_split
from sagan.data.source import Source
from sagan.data.validation import check_images
from sagan.runtime.progress import first_few


class Batch(NamedTuple):
    """Images and labels of one process for one step: d D updates of n images."""

    image: UInt8[np.ndarray, "d n h w c"]
    label: Int32[np.ndarray, "d n"]


def open_source(
    config: Config, split: str | None = None, *, known: Sequence[str] | None = None
) -> Source:
    """The checked images of a split, by default data.split; a copy, if in a bucket.

    Args:
      config: The experiment.
      split: Name of the split.
      known: Names of the classes that a run has; None: any will do.

    Raises:
      ConfigError: One line for each kind of problem.
    """
    data = local_data(config.data, config.run.local_dir)
    source = open_split(data, split or data.split)
    if known is not None and list(known) != list(source.class_names):
        raise ConfigError(
            f"{source.place}: {_class_changes(known, source.class_names)}"
        )
    return check_images(source)


def _class_changes(known: Sequence[str], now: Sequence[str]) -> str:
    changes = []
    for some, others, ends in (
        (known, now, ("of the run is gone", "of the run are gone")),
        (now, known, ("is new", "are new")),
    ):
        if names := [repr(name) for name in some if name not in others]:
            kind = "class" if len(names) == 1 else "classes"
            end = ends[len(names) > 1]
            changes.append(f"the {kind} {first_few(names)} {end}")
    return "; ".join(changes) or "the classes are those of the run in another order"


def resolve(config: Config, source: Source) -> Config:
    """Sets data.classes to the number in the data, if it is None."""
    if config.data.classes is not None:
        return config
    return replace(config, {"data.classes": source.classes})


def batches(
    config: Config,
    source: Source,
    start_step: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """Endless batches of this process, from `start_step` on; to be closed.

    A batch depends only on run.seed, the step and the images. The stream of images is
    a new permutation in each epoch. D update j of step s takes `batch` positions of it,
    from (s * d_steps + j) * batch on, and process r takes the r-th part of these.

    Raises:
      ConfigError: The batch cannot be divided between the processes.
    """
    if config.data.batch % process_count:
        raise ConfigError(
            f"data.batch = {config.data.batch}: must be divisible by the number of"
            f" processes, {process_count}"
        )
    steps = _steps(config, source, process_index, process_count)[start_step:]
    decoded = source.memory and source.waiting is None
    threads = 2 if decoded else max(2, min(16, os.cpu_count() or 1))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return _closing(iter(steps.to_iter_dataset(options)))


def _closing(iterator: grain.DatasetIterator) -> Generator[Batch, None, None]:
    with contextlib.closing(iterator):  # after an error in one of its threads, too
        yield from iterator


def _steps(
    config: Config, source: Source, process_index: int, process_count: int
) -> grain.MapDataset:
    """The batch of this process for each step, by index."""
    batch, d_steps = config.data.batch, config.optim.d_steps
    count = batch // process_count
    order = grain.MapDataset.range(len(source)).seed(config.run.seed)
    order = order.shuffle().repeat()  # a new permutation in each epoch

    def local_batch(step: int) -> Batch:
        updates = step * d_steps + np.arange(d_steps)[:, None]
        positions = updates * batch + process_index * count + np.arange(count)
        positions = positions.ravel()
        indices = np.array([order[int(position)] for position in positions])
        image, label = source.examples(indices)
        if config.data.flip:
            _mirror(image, coin_flips(config.run.seed, positions))
        shape = (d_steps, count)
        return Batch(image.reshape(*shape, *image.shape[1:]), label.reshape(shape))

    return grain.MapDataset.range(sys.maxsize // (d_steps * batch)).map(local_batch)


def _mirror(image: UInt8[np.ndarray, "n h w c"], chosen: Bool[np.ndarray, " n"]):
    """Mirrors the chosen images left to right, in place."""
    for i in np.flatnonzero(chosen):
        before = image[i].copy()  # NumPy would make one for each channel
        for c in range(image.shape[-1]):  # five times as fast as all channels at once
            image[i, :, :, c] = before[:, ::-1, c]


def coin_flips(seed: int, positions: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """A fair coin flip for each position of the stream.

    Source: SplitMix64, Steele, Lea and Flood 2014 (10.1145/2660193.2660195), with the
    mixing constants of its 64-bit variant 13.
    """
    start = _mix(np.array([seed], np.uint64))
    counter = positions.astype(np.uint64) + np.uint64(1)
    bits = _mix(start + counter * np.uint64(0x9E3779B97F4A7C15))
    return bits >> np.uint64(63) == 1


def _mix(z: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
