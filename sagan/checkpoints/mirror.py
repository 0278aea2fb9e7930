"""A workdir in a bucket: worked in on this machine, mirrored while training goes on."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

from sagan.checkpoints import bucket_layout as layout
from sagan.config.schema import Config, ConfigError
from sagan.config.validation import is_bucket
from sagan.runtime import lease, transfers
from sagan.runtime.buckets import (
    BucketError,
    Conflict,
    Objects,
    Stored,
    as_mistake,
)
from sagan.runtime.files import read_json, write_whole
from sagan.runtime.progress import Report
from sagan.runtime.transfers import local_folder

EVERY = 15.0  # seconds between two passes
PATIENCE = 300.0  # seconds for the last files to arrive
_RATE = 2**20  # bytes a second, of logs that are sent again and again


@contextlib.contextmanager
def mirrored(
    workdir: str | Path,
    config: Config,
    stop: Callable[[], None],
    report: Report,
    *,
    active: bool = True,
) -> Iterator[Path]:
    """The local folder of a workdir, which is mirrored if it is in a bucket.

    Args:
      workdir: A path, or gs://BUCKET/PATH.
      config: The run's config: run.local_dir is the folder for local copies.
      stop: Called from another thread if another process takes the bucket over.
      report: Takes the lines for the user.
      active: Whether this process writes.

    Raises:
      ConfigError: The bucket cannot be used, or another process trains there.
      OSError: At the end, not all files have arrived. They are still in the folder.
    """
    if not (active and is_bucket(str(workdir))):
        yield Path(workdir)
        return
    mirror = Mirror(str(workdir), config.run.local_dir, stop, report)
    with as_mistake():
        mirror.begin()
    try:
        yield mirror.folder
    except BaseException:
        try:
            mirror.end()
        except OSError as error:
            report(f"error: {error}")
        raise
    mirror.end()


@final
class Mirror:
    """Sends whole files, in an order that leaves a run in the bucket after any kill.

    Each pass begins with the removal of checkpoints that a rollback set aside. Then
    come the files that belong to no checkpoint, then the checkpoints, each with its
    marker last, then other removals. So the newest whole checkpoint in the bucket
    always has the logs up to it beside it.

    Attributes:
      folder: The local workdir.
    """

    def __init__(
        self, url: str, local_dir: str, stop: Callable[[], None], report: Report
    ):
        """Connects to nothing yet; a ConfigError if `url` cannot be a workdir."""
        self._objects = Objects(url)
        self.folder = local_folder(url, local_dir)
        note = local_folder(url, local_dir, "sessions")
        self._note = note.with_name(f"{note.name}.json")
        self._session = uuid.uuid4().hex
        self._lease = lease.Lease(self._objects, self._session, stop)
        self._report = report
        self._there: dict[str, Stored] = {}  # what the bucket has of this run
        self._sent: layout.Files = {}  # the files here that it has as they are
        self._when: dict[str, float] = {}  # they were sent
        self._failing = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mirror")

    def begin(self) -> None:
        """Takes the lease, and makes the folder the run that the bucket has.

        A folder from which the last process wrote to the bucket goes on as it is, as it
        may have more. Any other is set aside if it may have what the bucket lacks.

        Raises:
          ConfigError: Another process trains there.
          BucketError: The bucket cannot be used.
          OSError: The folder cannot be written.
        """
        objects, folder = self._objects, self.folder
        known, arrived = self._read_note()
        before = self._lease.look(self._report)
        there = {n: s for n, s in objects.list().items() if n != lease.NAME}
        if there and before is None and "config.json" not in there:
            raise ConfigError(f"{objects.url}: holds something else than a run")
        here = layout.local_files(folder)
        ours = before is not None and before in known and layout.goes_on(here, there)
        # a kill from here on must leave a folder that the next start judges rightly
        self._write_note([before, self._session] if before and ours else [], arrived)
        self._lease.take()
        try:
            self._bring(there, here, ours, arrived and before is not None)
        except BaseException:
            with contextlib.suppress(BucketError):
                self._lease.release()
            raise
        self._write_note([self._session])
        if there:
            unfinished = layout.unfinished(there)
            self._report(f"{objects.url}: goes on from there, in {folder}{unfinished}")
        self._thread.start()

    def _bring(
        self, there: dict[str, Stored], here: layout.Files, ours: bool, arrived: bool
    ) -> None:
        """Makes the folder what `begin` promises; it may be killed at any moment."""
        objects, folder = self._objects, self.folder
        if here and not ours:
            self._put_away(arrived)
        if not ours:  # what comes now is all in the bucket
            self._write_note([], arrived=True)
        wanted = layout.whole_only(there)
        if ours:  # what training writes is here, or ahead of the bucket's
            for name in list(wanted):
                mine = layout.is_written_by_training(name)
                if mine and (name in here or layout.in_checkpoints(name)):
                    del wanted[name]
        transfers.download(objects, folder, wanted)
        self._there = there
        for name, state in layout.local_files(folder).items():
            if name in there and transfers.is_same(folder / name, there[name]):
                self._sent[name] = state

    def end(self) -> None:
        """Sends what is left, for PATIENCE seconds at most, and releases the lease.

        Raises:
          OSError: Not everything has arrived.
        """
        self._ended.set()
        self._thread.join()
        deadline = time.monotonic() + PATIENCE
        while not self._try_pass(last=True):
            if self._lease.lost or time.monotonic() > deadline:
                break
            time.sleep(1)
        with contextlib.suppress(BucketError):
            self._lease.release()
        if self._lease.lost:
            raise OSError(f"{self._lease.lost}; what this one did is in {self.folder}")
        if self._failing:
            raise OSError(
                f"{self._failing}; not everything is in the bucket: the same command on"
                f" this machine goes on with {self.folder}"
            )
        self._write_note([self._session], arrived=True)

    def _run(self) -> None:
        pause = EVERY
        while not self._ended.wait(pause) and not self._lease.lost:
            pause = EVERY if self._try_pass() else min(2 * pause, 4 * EVERY)

    def _try_pass(self, *, last: bool = False) -> bool:
        """Sends what has changed, and tells when that fails and when it works again."""
        try:
            self._pass(last)
        except Exception as error:  # else the thread would end
            if not self._failing and not self._lease.lost:
                goes_on = "trying again" if last else "training goes on meanwhile"
                self._report(f"{error}; {goes_on}; the files are in {self.folder}")
            self._failing = str(error)
            return False
        if self._failing:
            self._report(f"{self._objects.url}: all files are in the bucket again")
        self._failing = ""
        return True

    def _pass(self, last: bool) -> None:
        self._lease.confirm()
        here = layout.local_files(self.folder)
        newest = max(layout.steps_in(here), default=-1)
        gone = [name for name in self._there if name not in here]
        if layout.is_emptied(gone, here):
            raise OSError(f"{self.folder}: was emptied; nothing is sent or removed")
        undone = [n for n in gone if (layout.step_of(n) or -1) > newest]
        self._remove(undone)
        changed = [n for n, state in here.items() if self._sent.get(n) != state]
        touched = {layout.step_of(n) for n in changed}
        steps = sorted(layout.steps_in(here) & touched)
        others = [n for n in changed if not layout.in_checkpoints(n)]
        self._send(here, [n for n in others if last or steps or self._is_due(n, here)])
        for step in steps:
            names = [n for n in changed if layout.step_of(n) == step]
            marker = [n for n in names if layout.is_marker(n)]
            if self._send(here, [n for n in names if n not in marker]):
                self._lease.confirm()
                self._send(here, marker)
        aside = [n for n in changed if layout.in_checkpoints(n)]
        self._send(here, [n for n in aside if layout.step_of(n) is None])
        self._remove([n for n in gone if n not in undone])

    def _is_due(self, name: str, here: layout.Files) -> bool:
        """Whether to send a log again: a long one only now and then."""
        since = time.monotonic() - self._when.get(name, -1e9)
        return since >= here[name][1] / _RATE

    def _send(self, here: layout.Files, names: list[str]) -> bool:
        """Writes files to the bucket; False if one was removed meanwhile."""

        def send(name: str) -> bool:
            before = self._there.get(name)
            try:
                written = self._write(name, before.generation if before else 0)
            except FileNotFoundError:
                return False
            self._there[name] = Stored(written, *here[name][1:], "")
            self._sent[name], self._when[name] = here[name], time.monotonic()
            return True

        return all(transfers.at_once(send, names))

    def _write(self, name: str, generation: int) -> int:
        try:
            return self._objects.write(name, self.folder / name, generation)
        except Conflict:
            self._lease.confirm(now=True)
            found = self._objects.stat(name)
            generation = found.generation if found else 0
            # ours, if the answer was lost; or an evaluation by another machine
            if found and not layout.is_written_by_training(name):
                return generation
            return self._objects.write(name, self.folder / name, generation)

    def _remove(self, names: list[str]) -> None:
        """Removes objects; markers first, so that no checkpoint seems whole."""

        def remove(name: str) -> None:
            self._objects.delete(name)
            self._there.pop(name, None)
            self._sent.pop(name, None)

        markers = [n for n in names if layout.is_marker(n)]
        transfers.at_once(remove, markers)
        transfers.at_once(remove, [n for n in names if n not in markers])

    def _put_away(self, arrived: bool) -> None:
        """Makes room for the run in the bucket."""
        if arrived:  # then the bucket had all of this, and another process went on
            return shutil.rmtree(self.folder)
        i, aside = 0, self.folder
        while aside.exists():
            i, aside = i + 1, self.folder.with_name(f"{self.folder.name}.aside{i}")
        self.folder.rename(aside)
        self._report(
            f"{self._objects.url}: another process wrote there since this machine did;"
            f" this machine's copy, which may have more, is kept as {aside}"
        )

    def _read_note(self) -> tuple[list[str], bool]:
        """The sessions whose work the folder is, and whether all of it has arrived."""
        try:
            note = read_json(self._note)
            return list(map(str, note["sessions"])), note["arrived"] is True
        except (OSError, ValueError, KeyError, TypeError):
            return [], False

    def _write_note(self, sessions: list[str], arrived: bool = False) -> None:
        self._note.parent.mkdir(parents=True, exist_ok=True)
        note = {"sessions": sessions, "arrived": arrived}
        write_whole(self._note, json.dumps(note))
