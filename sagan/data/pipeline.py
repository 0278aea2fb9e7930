"""Batches as a pure function of the seed and the step.

A new data set is an entry of DATASETS: a function (config.data, split) -> Source.
"""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Generator
from typing import NamedTuple, final

import grain
import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8, UInt64

from sagan.config.schema import Config, ConfigError
from sagan.data.datasets import read
from sagan.data.source import Source
from sagan.data.validation import check


class Batch(NamedTuple):
    """What one process gives to one step: a sub-batch for each of its D updates."""

    image: UInt8[np.ndarray, "d n h w c"]
    label: Int32[np.ndarray, "d n"]


def open_source(config: Config, split: str | None = None) -> Source:
    """The images of a split (None: data.split), checked before the first step.

    What forbids training is raised; what the user should know is in `notes`.

    Raises:
      ConfigError: one line for each kind of problem found.
    """
    return check(read(config.data, split or config.data.split))


def resolve(config: Config, source: Source) -> Config:
    """The config with the number of classes that the data has, if it names none."""
    if config.data.classes is not None:
        return config
    data = dataclasses.replace(config.data, classes=source.classes)
    return dataclasses.replace(config, data=data)


def batches(
    config: Config,
    source: Source,
    start_step: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """The batches of this process from `start_step` on, without end; close() it.

    The batch of a step depends on run.seed, the step and the images only: the stream of
    all images is a new permutation in each epoch, D update j of step s takes its
    positions from (s * d_steps + j) * batch on, and process r the r-th part of them.

    Raises:
      ConfigError: the processes cannot share the batch evenly.
    """
    if config.data.batch % process_count:
        raise ConfigError(
            f"data.batch = {config.data.batch}: must be divisible by the number of"
            f" processes, {process_count}"
        )
    steps = _Steps(config, source, process_index, process_count)
    threads = 2 if source.memory else max(2, min(16, os.cpu_count() or 1))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    dataset = grain.MapDataset.source(steps)[start_step:].to_iter_dataset(options)
    return _closing(iter(dataset))


def _closing(iterator: grain.DatasetIterator) -> Generator[Batch, None, None]:
    with contextlib.closing(iterator):  # also after an error in one of its threads
        yield from iterator


@final
class _Steps:
    """The local batch of every step, by step."""

    def __init__(
        self, config: Config, source: Source, process_index: int, process_count: int
    ):
        self._config, self._source = config, source
        self._count = config.data.batch // process_count
        self._offset = process_index * self._count
        everything = grain.MapDataset.range(len(source)).seed(config.run.seed)
        self._order = everything.shuffle().repeat()  # anew in every epoch

    def __len__(self) -> int:
        per_step = self._config.optim.d_steps * self._config.data.batch
        return sys.maxsize // per_step

    def __getitem__(self, index: int) -> Batch:
        config, count, d_steps = self._config, self._count, self._config.optim.d_steps
        updates = index * d_steps + np.arange(d_steps)[:, None]
        positions = updates * config.data.batch + self._offset + np.arange(count)
        positions = positions.ravel()
        indices = np.array([self._order[int(p)] for p in positions])
        image, label = self._source.examples(indices)
        if config.data.flip:
            mirrored = coin(config.run.seed, positions)
            image[mirrored] = image[mirrored, :, ::-1]
        shape = (d_steps, count)
        return Batch(image.reshape(*shape, *image.shape[1:]), label.reshape(shape))


def coin(seed: int, positions: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """A fair coin for each position of the stream.

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
