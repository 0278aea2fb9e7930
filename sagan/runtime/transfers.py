"""Files to and from a bucket, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sagan.config.validation import is_bucket
from sagan.runtime import cache
from sagan.runtime.buckets import (
    Objects,
    Stored,
    bucket_and_path,
    crc32c_of,
)
from sagan.runtime.progress import bar

T = TypeVar("T")


def local_folder(path: str, local_dir: str = "", kind: str = "runs") -> Path:
    """Where a folder is on this machine; if it is in a bucket, where its copy is.

    Args:
      path: A path, or gs://BUCKET/PATH.
      local_dir: Folder of all copies; empty: in the cache directory.
      kind: Folder of these copies in there.
    """
    if not is_bucket(path):
        return Path(path)
    base = Path(local_dir).expanduser() if local_dir else cache.folder() / "buckets"
    return Path(base, kind, *bucket_and_path(path))


def is_same(path: Path, stored: Stored) -> bool:
    """Whether a file has the content of an object."""
    try:
        same_size = path.stat().st_size == stored.size
        return same_size and crc32c_of(path) == stored.crc32c
    except OSError:
        return False


def download(objects: Objects, folder: Path, wanted: Mapping[str, Stored]) -> None:
    """Writes objects into a folder; files that have their content stay."""

    def fetch(name: str) -> None:
        if not is_same(folder / name, wanted[name]):
            objects.fetch(name, folder / name, wanted[name])

    at_once(fetch, sorted(wanted), f"from {objects.url}")


def at_once(
    act: Callable[[str], T], names: Collection[str], what: str | None = None
) -> list[T]:
    """Calls a function for all names, several at a time; a bar if it has a name."""
    with ThreadPoolExecutor(8) as pool:
        done = pool.map(act, names)
        try:
            return list(bar(done, what, len(names)) if what else done)
        finally:
            pool.shutdown(cancel_futures=True)
