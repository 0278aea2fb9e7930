"""Arrays that cost time to compute or fetch, kept in the user's cache directory."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def folder() -> Path:
    """$SAGAN_CACHE, or `sagan` in $XDG_CACHE_HOME, or in ~/.cache. Not created."""
    own = os.environ.get("SAGAN_CACHE")
    if own:
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "sagan"


def kept(name: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of a name that says all that they depend on: read, else made and kept.

    A file that cannot be read is made anew; a directory that cannot be written is no
    reason to fail.
    """
    path = folder() / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        arrays = make()
    try:
        write(path, arrays)
    except OSError:
        pass
    return arrays


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz that is there whole or not at all, even when killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(prefix=".", suffix=".npz", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of types, shapes and values, in hexadecimal."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
