"""Files that are complete or absent, and safe names for them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sagan.config.schema import ConfigError


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Adds the path to an OSError that names no file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write that is complete or absent, even after a kill.

    It is written under another name, synced, and renamed when the block ends. An error
    in the block leaves the old file, or none.
    """
    try:
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # rather than that of the unfinished file
        raise
    try:
        with naming_file(path), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o644)  # mkstemp lets only the owner read
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that is complete or absent, even after a kill."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False
) -> None:
    """Writes an .npz file that is complete or absent; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save = np.savez_compressed if compressed else np.savez
    with whole_file(path) as file:
        save(file, allow_pickle=False, **arrays)


def drop_lines_after(path: Path, step: int, rollbacks: int = 0) -> None:
    """Removes the lines of a JSON-lines file that are past `step`, or torn by a kill.

    A line may have a key `rollbacks`, the number of rollbacks before it. A line with
    fewer than now stays, whatever its step; one with more is removed.
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
    write_whole(path, b"".join(line for line in lines if stays(line)))


def make_folder(folder: Path) -> None:
    """Creates the folder of a command's --out, unless it exists.

    Raises:
      ConfigError: Something else has this name, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"--out {folder}: is not a folder") from error
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {folder}: cannot be written: no permission")


def file_name(text: str) -> str:
    """Any text as a file name that cannot lead out of its folder.

    Plain names stay. Others lose their special characters and get a digest, so no two
    texts share a name. Any part of a written path that comes from a user, a data set or
    a file goes through here.
    """
    plain = re.sub(r"[^A-Za-z0-9_.=-]", "_", text).lstrip(".")[:128]
    if plain == text and text:
        return text
    return f"{plain[:64]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
