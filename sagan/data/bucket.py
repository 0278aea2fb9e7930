"""Data in a bucket: copied to this machine before they are read."""

import contextlib
import dataclasses
import fcntl
import json
import shutil
from pathlib import Path

from sagan.config.schema import DataConfig
from sagan.config.validation import is_bucket
from sagan.runtime import transfers
from sagan.runtime.buckets import BucketError, Objects, Stored, as_mistake
from sagan.runtime.files import open_append, read_json, write_whole

_SPARE = 2**30  # bytes of the disk that stay free


def local_data(data: DataConfig, local_dir: str) -> DataConfig:
    """The same data on this machine: data.path is a copy, if it was in a bucket.

    Copied is the folder called data.name in data.path or, if there is none, all that is
    there. Files of an earlier copy stay where the bucket has not changed.

    Args:
      data: Where the data are.
      local_dir: Folder of the copies; empty: in the cache directory.

    Raises:
      ConfigError: The bucket cannot be read or has no data there, or the disk is full.
    """
    if not is_bucket(data.path):
        return data
    root = transfers.local_folder(data.path, local_dir, "data")
    with as_mistake("data.path: ", OSError):
        objects, folder = Objects(data.path), root
        inner = data.name.partition(":")[0]
        in_inner = Objects(f"{objects.url}/{inner}")
        if there := in_inner.list():
            objects, folder = in_inner, root / inner
        elif not (there := objects.list()):
            raise BucketError(f"{objects.url}: is empty")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open_append(folder.with_name(f"{folder.name}.lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another run may copy the same
            _copy(objects, there, folder)
    return dataclasses.replace(data, path=str(root))


def _copy(objects: Objects, there: dict[str, Stored], folder: Path) -> None:
    """Makes a folder the copy of these objects."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in there:
            path.unlink()
    note, copied = folder.with_name(f"{folder.name}.copied.json"), {}
    with contextlib.suppress(OSError, ValueError):
        copied = dict(read_json(note))
    missing = {
        name: stored
        for name, stored in there.items()
        if copied.get(name) != [stored.generation, *_state(folder / name)]
    }
    if not missing:
        return
    _check_space(objects.url, folder, missing)
    transfers.download(objects, folder, missing)
    copied = {n: [s.generation, *_state(folder / n)] for n, s in there.items()}
    write_whole(note, json.dumps(copied))


def _state(path: Path) -> tuple[int, int]:
    """Size and time of the last change; zeros if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _check_space(url: str, folder: Path, missing: dict[str, Stored]) -> None:
    needed = sum(stored.size - _state(folder / n)[0] for n, stored in missing.items())
    above = next(p for p in (folder, *folder.parents) if p.exists())
    free = max(shutil.disk_usage(above).free - _SPARE, 0)
    if needed > free:
        raise BucketError(
            f"the copy of {url} needs {needed / 2**30:.1f} GiB more, and {above} has"
            f" {free / 2**30:.1f} to spare: name a folder on a larger disk with"
            " --run.local-dir in training or SAGAN_CACHE elsewhere, or mount the bucket"
            " with gcsfuse and give that folder"
        )
