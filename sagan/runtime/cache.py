"""The user's cache directory, and arrays that were computed."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sagan.runtime.files import file_name, open_regular, remove_unfinished, write_arrays

Arrays = dict[str, np.ndarray]


def folder() -> Path:
    """$SAGAN_CACHE, else `sagan` in $XDG_CACHE_HOME or ~/.cache; may not exist."""
    own = os.environ.get("SAGAN_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(own).expanduser() if own else Path(home).expanduser() / "sagan"
    except RuntimeError:  # a user without a home: nothing can be kept
        return Path(os.devnull, "sagan")


def cached_arrays(name: str, compute: Callable[[], Arrays]) -> Arrays:
    """Reads arrays from the cache, or computes and caches them.

    Args:
      name: Identifies everything that the arrays depend on, by a digest for example.
      compute: Called if the cache has no such arrays, or none that can be read.
    """
    arrays = read_arrays(name)
    if not arrays:
        arrays = compute()
        keep_arrays(name, arrays)
    return arrays


def read_arrays(name: str) -> Arrays:
    """Arrays from the cache; empty if there are none, or none that can be read."""
    try:
        with open_regular(_path(name)) as raw, np.load(raw, allow_pickle=False) as file:
            return dict(file)
    except Exception:  # of a damaged file, nearly anything
        return {}


def keep_arrays(name: str, arrays: Arrays) -> None:
    """Writes arrays to the cache; one that cannot be written is ignored."""
    try:
        write_arrays(_path(name), arrays)
        remove_unfinished(folder())
    except OSError:
        pass


def _path(name: str) -> Path:
    return folder() / f"{file_name(name)}.npz"


def digest(*arrays: np.ndarray) -> str:
    """Hexadecimal SHA-256 of the types, shapes and values of arrays."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
