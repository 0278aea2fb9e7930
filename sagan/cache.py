"""Arrays that cost time to compute or fetch, kept in the user's cache directory."""

import hashlib
import os
import re
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


def keep_compiled() -> None:
    """Lets JAX keep its compiled programs here too, for the next start."""
    from sagan import xla  # JAX starts only where it is needed

    xla.keep_compiled(folder() / "compiled")


def file_name(text: str) -> str:
    """Any text as the name of a file: it cannot lead out of its folder.

    What is no plain name gets plain characters and a digest, so that no two texts have
    one name. Whatever comes from a user, a data set or a file goes through here before
    it becomes part of a path that is written.
    """
    plain = re.sub(r"[^A-Za-z0-9_.=-]", "_", text).lstrip(".")[:128]
    if plain == text and text:
        return text
    return f"{plain[:64]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


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
