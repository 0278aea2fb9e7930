"""Files that are complete or absent, and safe names for them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from sagan.config.schema import ConfigError

_UNFINISHED = ".unfinished"  # end of the name of a file that is being written
_JSON_BYTES, _JSON_DEPTH = 2**24, 32  # far above those of any file of ours
# codes of what is missing or no regular file; others are the machine's fault
DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP}
DAMAGE |= {errno.ENXIO}


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
    in the block leaves the old file, or none. A link at `path` is replaced, and what it
    points to stays as it is.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        handle = _locked_new(unfinished)
    except OSError as error:
        error.filename = str(path)  # rather than that of the unfinished file
        raise
    try:
        with naming_file(path), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _locked_new(path: Path) -> int:
    """Creates a file and locks it, so that `remove_unfinished` leaves it alone."""
    while True:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)  # it was removed before it was locked


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes left half written; not what is being written."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
            with os.fdopen(handle, "r+b") as file:  # NFS locks what may be written
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that is complete or absent, even after a kill."""
    with whole_file(path) as file:
        is_text = isinstance(content, str)  # of names that are not UTF-8, too
        file.write(content.encode(errors="backslashreplace") if is_text else content)


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False
) -> None:
    """Writes an .npz file that is complete or absent; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save = np.savez_compressed if compressed else np.savez
    with whole_file(path) as file:
        save(file, allow_pickle=False, **arrays)


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file to read; OSError for any other, as a FIFO would block."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise OSError(errno.EINVAL, "is not a regular file", str(path))


def read_whole(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
      ConfigError: It cannot be read.
    """
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def read_json(path: Path, most: int = _JSON_BYTES) -> Any:
    """The value in a JSON file of at most so many bytes, which need not be trusted.

    Raises:
      OSError: It cannot be read, or is not a regular file.
      ValueError: It is not JSON, or too large or too deeply nested to be ours.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"has more than {most:,} bytes")
    return parse_json(content)


def parse_json(content: str | bytes) -> Any:
    """The value of JSON text; a ValueError if it is none, or too deeply nested."""
    try:
        value = json.loads(content)
    except RecursionError:
        value = None
    else:
        level: list[Any] = [[value]]
        for _ in range(_JSON_DEPTH):
            trees = (
                tree.values() if isinstance(tree, dict) else tree for tree in level
            )
            level = [x for tree in trees for x in tree if isinstance(x, dict | list)]
            if not level:
                return value
    raise ValueError(f"is nested deeper than {_JSON_DEPTH}")


def parse_row(line: str | bytes) -> dict[str, Any] | None:
    """The object in a line of a log, if it is one with a step."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return row if type(step) is int and 0 <= step < 2**53 else None


def drop_lines_after(path: Path, step: int, rollbacks: int = 0) -> str | None:
    """Removes the lines of a JSON-lines file that are past `step`, or torn by a kill.

    A line may have a key `rollbacks`, the number of rollbacks before it. A line with
    fewer than now stays, whatever its step; one with more is removed.

    Returns:
      A line for the user if others than a torn last one cannot be read; the file is
      then kept beside, as it was.
    """
    if not path.exists():
        return None
    with open_regular(path) as file:
        content = file.read()
    kept, damaged = [], 0
    for line in content.splitlines(keepends=True):
        row = parse_row(line) if line.endswith(b"\n") else {}
        if row is None:
            damaged += 1
        elif row:
            before = row.get("rollbacks", rollbacks)
            if type(before) is not int:
                damaged += 1
            elif (before, row["step"]) <= (rollbacks, step):
                kept.append(line)
    note = None
    if damaged:
        beside = beside_damaged(path)
        write_whole(beside, content)
        note = f"{path}: {damaged} damaged lines are dropped; {beside.name} has them"
    write_whole(path, b"".join(kept))
    return note


def last_row(path: Path, key: str) -> dict[str, Any]:
    """The object in the last line of a log that has a key; empty if none has."""
    if not path.exists():
        return {}
    with open_regular(path) as file:
        lines = reversed(file.readlines())
    rows = (parse_row(line) or {} for line in lines)
    return next((row for row in rows if key in row), {})


def beside_damaged(path: Path) -> Path:
    """An unused name beside a damaged file, to keep it under."""
    names = (f"{path.stem}.damaged{i}{path.suffix}" for i in itertools.count())
    return next(p for name in names if not (p := path.with_name(name)).exists())


def open_append(path: Path) -> TextIO:
    """Opens a text file to append to; a ConfigError if it is a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    flags |= os.O_NONBLOCK  # a FIFO without a reader is an error at once
    try:
        return os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_a_link(path) from error
        raise


def own_folder(workdir: Path, *names: str) -> Path:
    """Creates workdir/names[0]/names[1]/...; a ConfigError if one of these is a link.

    Files of a stranger's workdir could otherwise be written anywhere. The workdir must
    exist: one that was moved while it is used does not come again.
    """
    folder = workdir
    for name in names:
        folder = folder / name
        if folder.is_symlink():
            raise _is_a_link(folder)
        with naming_file(folder):
            folder.mkdir(exist_ok=True)
    return folder


def _is_a_link(path: Path) -> ConfigError:
    return ConfigError(
        f"{path}: is a symbolic link: must be a file or folder of the workdir itself;"
        " to keep a run elsewhere, make the workdir a link"
    )


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


def make_place(out: Path, *, is_file: bool) -> None:
    """Creates the folder of a command's --out, or that of a file, before it draws.

    Raises:
      ConfigError: The folder or file cannot be written.
    """
    if is_file and out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; must be a file")
    make_folder(out.parent if is_file else out)


def file_name(text: str) -> str:
    """Any text as a file name that cannot lead out of its folder.

    Plain names stay. Others lose their special characters and get a digest, so no two
    texts share a name. Any part of a written path that comes from a user, a data set or
    a file goes through here.
    """
    plain = re.sub(r"[^A-Za-z0-9_.=-]", "_", text).lstrip(".")[:128]
    if plain == text and text:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{plain[:64]}-{digest[:16]}"
