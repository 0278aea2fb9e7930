"""A run in a bucket, for the commands that read it: copied as far as they need it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

from sagan.checkpoints import bucket_layout as layout
from sagan.config.schema import ConfigError
from sagan.config.validation import is_bucket
from sagan.runtime import lease, transfers
from sagan.runtime.buckets import Objects, as_mistake
from sagan.runtime.progress import Report

_copies: dict[Path, RunCopy] = {}  # by the folder of the checkpoints


def fetch(folder: Path) -> None:
    """Completes a checkpoint's folder, if it is in a copy of a run in a bucket."""
    if folder.parent in _copies:
        _copies[folder.parent].fetch(int(folder.name))


def shown(workdir: Path) -> str:
    """How a command's output names a workdir: a copy by the URL of its bucket."""
    copy = _copies.get(workdir / "checkpoints")
    return copy.url if copy else str(workdir)


@final
class RunCopy:
    """A copy of a run in a bucket; `fetch` adds the arrays of a checkpoint.

    Attributes:
      folder: The local workdir.
      url: That of the bucket.
    """

    def __init__(self, url: str):
        """Copies the run, as far as there is no copy of it on this machine.

        Raises:
          ConfigError: There is no run, or the bucket cannot be read.
        """
        self._objects = Objects(url)
        self.url = self._objects.url
        self.folder = transfers.local_folder(url, kind="copies")
        with as_mistake():
            there = layout.whole_only(self._objects.list())
            if "config.json" not in there:
                raise ConfigError(f"{self.url}: holds no run (there is no config.json)")
            self._there = there
            self._drop_other_run()
            transfers.download(
                self._objects,
                self.folder,
                {n: s for n, s in there.items() if _is_for_all(n)},
            )
        self._before = layout.local_files(self.folder)
        _copies[self.folder / "checkpoints"] = self

    def fetch(self, step: int) -> None:
        """Completes a checkpoint."""
        names = {n: s for n, s in self._there.items() if layout.step_of(n) == step}
        transfers.download(self._objects, self.folder, names)

    def send(self) -> list[str]:
        """Writes what the command made to the bucket, and gives the names."""
        made = [
            name
            for name, state in layout.local_files(self.folder).items()
            if not layout.in_checkpoints(name) and self._before.get(name) != state
        ]

        def send(name: str) -> None:
            self._objects.write(name, self.folder / name, before=None)

        transfers.at_once(send, made, f"to {self.url}")
        return made

    def _drop_other_run(self) -> None:
        """Removes the copy of an earlier run here, and of checkpoints that are gone."""
        config = self.folder / "config.json"
        if config.exists() and not transfers.is_same(
            config, self._there["config.json"]
        ):
            shutil.rmtree(self.folder)
        for name in layout.local_files(self.folder):
            if name not in self._there and not layout.in_checkpoints(name):
                (self.folder / name).unlink()
        kept = layout.steps_in(self._there)
        for path in self.folder.glob("checkpoints/*"):
            if not (path.name.isdecimal() and int(path.name) in kept):
                shutil.rmtree(path)


def _is_for_all(name: str) -> bool:
    """Whether a command may need an object whatever checkpoint it reads."""
    if layout.step_of(name) is not None:
        return layout.is_marker(name) or name.endswith("/meta/metadata")
    top = name.partition("/")[0]
    return top not in (lease.NAME, "checkpoints", "tensorboard")


@contextlib.contextmanager
def copied(workdirs: Sequence[str], report: Report) -> Iterator[list[str]]:
    """Workdirs with local copies in place of runs in buckets.

    What a command that succeeds has written into a copy goes to the bucket.

    Args:
      workdirs: Those of a command that reads runs.
      report: Takes the lines for the user.

    Raises:
      ConfigError: A run cannot be copied.
      OSError: What the command wrote has not arrived in the bucket.
    """
    copies = {path: RunCopy(path) for path in workdirs if is_bucket(path)}
    local = [str(copies[w].folder) if w in copies else w for w in workdirs]
    try:
        yield local
    except ConfigError as error:
        message = str(error)
        for copy in copies.values():
            message = message.replace(str(copy.folder), copy.url)
        raise ConfigError(message) from error
    for copy in copies.values():
        try:
            made = copy.send()
        except OSError as error:
            raise OSError(
                f"{error}; what the command wrote is in {copy.folder}"
            ) from error
        if made:
            report(f"{copy.url}: has the {len(made)} files that this command wrote")
