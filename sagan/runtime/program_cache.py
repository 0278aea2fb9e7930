"""Compiled programs, kept on this machine, and shared through a bucket."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import platform
import threading
import time
import zlib
from pathlib import Path
from typing import Any

from sagan.config.schema import ConfigError
from sagan.config.validation import is_bucket
from sagan.runtime import cache, transfers
from sagan.runtime.buckets import Objects, Unreachable
from sagan.runtime.progress import Report

EVERY = 15.0  # seconds
_SETTLED = 5.0  # seconds after which JAX has written a file


def keep_compiled(where: str = "") -> None:
    """Has JAX keep compiled programs, for the next start.

    Each kind of CPU has its own subfolder, because machines may share a folder. In the
    cache directory, this does nothing if the user chose a folder for JAX, or if it
    cannot be written.

    Args:
      where: A folder, or gs://BUCKET/PATH; empty: in the cache directory.

    Raises:
      ConfigError: `where` cannot be used.
    """
    import jax  # slow

    settings: Any = jax.config
    base = transfers.local_folder(where, kind="programs").expanduser()
    part = base if where else cache.folder() / "compiled"
    part = part / hashlib.sha256(_processor().encode()).hexdigest()[:16]
    try:
        if settings.jax_compilation_cache_dir:
            raise OSError("JAX keeps them elsewhere (JAX_COMPILATION_CACHE_DIR)")
        part.mkdir(parents=True, exist_ok=True)
        _drop_unfinished(part)
        if is_bucket(where):
            _share(part, f"{where.rstrip('/')}/{part.name}", print)
    except Unreachable:
        raise
    except OSError as error:
        if where:
            raise ConfigError(f"run.compilation_cache_dir: {error}") from error
        return
    jax.config.update("jax_compilation_cache_dir", str(part))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _share(folder: Path, url: str, report: Report) -> None:
    """Fetches the programs in a bucket into JAX's folder, and sends new ones back.

    They are sent every few seconds and at the end of the process, so that a machine
    that is taken away has shared what it compiled.

    Raises:
      BucketError: The bucket cannot be read.
    """
    objects = Objects(url)
    there = {n: s for n, s in objects.list().items() if n.endswith("-cache")}
    here = {path.name for path in folder.iterdir()}
    missing = {n: s for n, s in there.items() if "/" not in n and n not in here}
    transfers.download(objects, folder, missing)
    sender = _Sender(objects, folder, set(there), report)
    threading.Thread(target=sender.run, daemon=True, name="programs").start()
    atexit.register(sender.end)


class _Sender:
    def __init__(
        self, objects: Objects, folder: Path, sent: set[str], report: Report
    ) -> None:
        self._objects, self._folder, self._report = objects, folder, report
        self._sent, self._failed = sent, False
        self._ended, self._sending = threading.Event(), threading.Lock()

    def run(self) -> None:
        while not self._ended.wait(EVERY):
            self._send()

    def end(self) -> None:
        self._ended.set()
        self._send()

    def _send(self) -> None:
        with self._sending:
            try:
                for path in sorted(self._folder.glob("*-cache")):
                    if path.name not in self._sent and self._is_written(path):
                        self._objects.write(path.name, path, None)
                        self._sent.add(path.name)
            except OSError as error:
                if not self._failed:
                    self._report(f"run.compilation_cache_dir: {error}; trying again")
                self._failed = True

    def _is_written(self, path: Path) -> bool:
        settled = path.stat().st_mtime < time.time() - _SETTLED
        return (settled or self._ended.is_set()) and _is_whole(path.read_bytes())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))


def _drop_unfinished(part: Path) -> None:
    """Removes entries that a killed process left unfinished.

    JAX would warn about such an entry at each start, and compile without replacing it.
    """
    stamp = part / ".checked"
    checked = stamp.stat().st_mtime if stamp.exists() else 0.0
    now = time.time()
    for path in part.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            if path.stat().st_mtime >= checked and not _is_whole(path.read_bytes()):
                path.unlink()
    stamp.touch()
    os.utime(stamp, (now, now))


def _is_whole(entry: bytes) -> bool:
    if entry.startswith(b"\x28\xb5\x2f\xfd"):  # Zstandard, which Python cannot read
        return True
    stream = zlib.decompressobj()
    try:
        stream.decompress(entry)
    except zlib.error:
        return False
    return stream.eof
