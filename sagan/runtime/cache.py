"""The user's cache directory: computed arrays and compiled programs."""

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sagan.runtime.files import file_name, write_arrays

Arrays = dict[str, np.ndarray]


def folder() -> Path:
    """$SAGAN_CACHE, else `sagan` in $XDG_CACHE_HOME or ~/.cache; may not exist."""
    own = os.environ.get("SAGAN_CACHE")
    if own:
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "sagan"


def keep_compiled() -> None:
    """Has JAX keep compiled programs in the cache directory, for the next start."""
    from sagan.runtime import compilation  # imports JAX, which is slow

    compilation.keep_compiled(folder() / "compiled")


def cached_arrays(name: str, compute: Callable[[], Arrays]) -> Arrays:
    """Reads arrays from the cache, or computes and caches them.

    A file that cannot be read is computed again, and a cache that cannot be written is
    ignored.

    Args:
      name: Identifies everything that the arrays depend on, by a digest for example.
      compute: Called if the cache has no such arrays.
    """
    path = folder() / f"{file_name(name)}.npz"
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw):
            with np.load(raw, allow_pickle=False) as file:
                return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        arrays = compute()
    try:
        write_arrays(path, arrays)
    except OSError:
        pass
    return arrays


def digest(*arrays: np.ndarray) -> str:
    """Hexadecimal SHA-256 of the types, shapes and values of arrays."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
