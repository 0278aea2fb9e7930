"""Samples and features of an evaluation, kept as files."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sagan.metrics import Extracted
from sagan.runtime import processes
from sagan.runtime.files import file_name, write_arrays

FIELDS = {"samples": ("image", "label"), "features": ("vector", "logits", "label")}


def kept_path(folder: Path, kind: str, weights: str, mode: str, seed: int) -> Path:
    """The file of a kind in FIELDS, for one variant and seed of an evaluation."""
    weights = weights.replace(" ", "")
    return folder / file_name(f"{kind}-{weights}-{mode}-seed{seed}.npz")


@contextlib.contextmanager
def keeping(
    kinds: Sequence[str], folder: Path, weights: str, mode: str, seed: int
) -> Iterator[Callable[[Extracted], None] | None]:
    """Takes the pieces of an evaluation, and writes an .npz for each kind at the end.

    They stay in memory until then. `sagan evaluate` reads a file of samples. Nothing is
    taken, and None yielded, without kinds.
    """
    if not kinds:
        yield None
        return
    names = {name for kind in kinds for name in FIELDS[kind]}
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def take(extracted: Extracted) -> None:
        for name in names:
            pieces[name].append(getattr(extracted, name))

    yield take
    for kind in kinds if processes.is_main() else ():
        arrays = {name: np.concatenate(pieces[name]) for name in FIELDS[kind]}
        write_arrays(kept_path(folder, kind, weights, mode, seed), arrays)
