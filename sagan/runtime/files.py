"""Files that are there whole or not at all, and what they are called."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from sagan.config.schema import ConfigError


def make_folder(folder: pathlib.Path) -> None:
    """Creates a folder for what a command draws, unless it is there.

    Raises:
      ConfigError: it cannot be one, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"--out {folder}: is not a folder") from error
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {folder}: cannot be written: no permission")


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """An OSError within says which file it is about: that of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file that is there whole or not at all, even when killed."""
    encoded = content.encode("utf-8") if isinstance(content, str) else content
    prefix = f".{path.name}."
    try:
        handle, unfinished = tempfile.mkstemp(prefix=prefix, dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # not of the unfinished file
        raise
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o644)  # mkstemp's files are the owner's alone
        os.replace(unfinished, path)
    except BaseException:
        pathlib.Path(unfinished).unlink(missing_ok=True)
        raise


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


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
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


def drop_lines_after(path: pathlib.Path, step: int, rollbacks: int = 0) -> None:
    """Keeps the lines up to `step`; a line torn by a kill has none and goes too.

    A line may say how many `rollbacks` there were before it: one with fewer than now
    stays, as training has passed it and then went back; one with more goes.
    """
    if not path.exists():
        return

    def stays(line: bytes) -> bool:
        try:
            row = json.loads(line)
            at = row.get("rollbacks", rollbacks), row["step"]
            return line.endswith(b"\n") and at <= (rollbacks, step)
        except (ValueError, KeyError, TypeError):
            return False

    lines = path.read_bytes().splitlines(keepends=True)
    unfinished = path.with_suffix(".unfinished")
    with naming(path):
        unfinished.write_bytes(b"".join(line for line in lines if stays(line)))
        os.replace(unfinished, path)
