"""Arrays that cost time to compute or fetch, kept in the user's cache directory."""

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sagan.runtime.files import file_name, write_arrays

Arrays = dict[str, np.ndarray]


def folder() -> Path:
    """$SAGAN_CACHE, or `sagan` in $XDG_CACHE_HOME, or in ~/.cache. Not created."""
    own = os.environ.get("SAGAN_CACHE")
    if own:
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "sagan"


def keep_compiled() -> None:
    """Lets JAX keep its compiled programs here too, for the next start."""
    from sagan.runtime import compilation  # JAX starts only where it is needed

    compilation.keep_compiled(folder() / "compiled")


def kept(name: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of a name that says all that they depend on: read, else made and kept.

    A file that cannot be read is made anew; a directory that cannot be written is no
    reason to fail.
    """
    path = folder() / f"{file_name(name)}.npz"
    try:
        with path.open("rb") as raw, zipfile.ZipFile(raw):
            with np.load(raw, allow_pickle=False) as file:
                return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        arrays = make()
    try:
        write_arrays(path, arrays)
    except OSError:
        pass
    return arrays


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of types, shapes and values, in hexadecimal."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
