"""Exchange of arrays, texts and errors between processes."""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from sagan.config.schema import ConfigError


class _Ended(ConfigError):
    """An error that all processes have raised."""


def share(count: int) -> range:
    """This process's part of `count` items, all parts but the last of one length.

    Surplus processes repeat the first item; cut the joined rows to `count`.
    """
    index, processes = jax.process_index(), jax.process_count()
    length = -(-count // processes)
    start = index * length
    return range(start, min(start + length, count)) if start < count else range(1)


def join_rows(array: np.ndarray) -> np.ndarray:
    """The rows that the processes pass, in the order of the processes, in each."""
    return np.concatenate(_each(array))


def _each(array: np.ndarray) -> list[np.ndarray]:
    """The arrays that the processes pass, which differ at most in their length."""
    if jax.process_count() == 1:
        return [array]
    lengths = multihost_utils.process_allgather(np.array(len(array)))
    padded = np.zeros((lengths.max(), *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    rows = multihost_utils.process_allgather(padded)
    return [row[:n] for row, n in zip(rows, lengths, strict=True)]


def texts(text: str) -> list[str]:
    """The texts that the processes pass, in their order; the same list in each."""
    data = np.frombuffer(text.encode(), np.uint8)
    return [bytes(row).decode() for row in _each(data)]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raises a ConfigError of one process in all of them, at the end of the block.

    No process may wait for the others inside.
    """
    own: ConfigError | None = None
    try:
        yield
    except _Ended:
        raise
    except ConfigError as error:
        own = error
    if jax.process_count() > 1:
        said = [text for text in texts(str(own or "")) if text]
        if said:
            end_all(said[0])
    elif own:
        raise own


def from_main(make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that process 0 makes; the others wait for them.

    Raises:
      ConfigError: `make` raised it.
    """
    arrays: dict[str, np.ndarray] = {}
    with together():
        if jax.process_index() == 0:
            arrays = make()
    if jax.process_count() == 1:
        return arrays
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    first = _each(np.frombuffer(packed.getvalue(), np.uint8))[0]
    with np.load(io.BytesIO(first.tobytes()), allow_pickle=False) as file:
        return dict(file)


def all_have(it: bool) -> bool:
    """Whether `it` is true in every process."""
    return all(texts("yes" if it else ""))


def end_all(problem: str) -> NoReturn:
    """Raises a ConfigError that all processes raise."""
    jax.distributed.shutdown()  # else the first to end aborts the others
    raise _Ended(problem)
