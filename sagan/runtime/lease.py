"""A lease on a path in a bucket: one process at a time writes there."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, final

from sagan.config.schema import ConfigError
from sagan.runtime.buckets import BucketError, Conflict, Objects
from sagan.runtime.files import parse_json
from sagan.runtime.progress import Report, printable

NAME = "lease.json"
RENEW, EXPIRE = 15.0, 60.0  # seconds


@final
class Lease:
    """An object that its holder writes again every RENEW seconds.

    Each write names the generation that it replaces, so only one process can have it.
    A lease that nobody renews for EXPIRE seconds, by the clock of whoever waits for it,
    is taken over: no two machines' clocks are compared.

    Attributes:
      lost: Why this process no longer has it, or None.
    """

    def __init__(self, objects: Objects, session: str, on_loss: Callable[[], None]):
        self.lost: str | None = None
        self._session = session
        self._confirmed = 0.0
        self._writing = threading.Lock()
        self._objects, self._on_loss = objects, on_loss
        self._generation = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")

    def look(self, report: Report) -> str | None:
        """Waits until nobody has the lease; returns the session that had it last.

        Raises:
          ConfigError: Another process has it.
          BucketError: The bucket cannot be used.
        """
        found = self._read()
        if found and found[0].get("held"):
            found = self._wait(*found, report)
        self._generation = found[1] if found else 0
        return str(found[0].get("session")) if found else None

    def take(self) -> None:
        """Takes the lease, if nobody else did since `look`, and keeps it.

        Raises:
          ConfigError: Another process was faster.
          BucketError: The bucket cannot be used.
        """
        try:
            self._write(held=True)
        except Conflict as error:
            url = self._objects.url
            raise ConfigError(f"{url}: another process starts to train here") from error
        self._thread.start()

    def confirm(self, *, now: bool = False) -> None:
        """Makes sure that this process still has the lease.

        Args:
          now: Ask the bucket, however short ago it was asked.

        Raises:
          BucketError: It has not, or the bucket cannot be used.
        """
        if self.lost is None and (
            now or time.monotonic() > self._confirmed + 2 * RENEW
        ):
            self._renew()
        if self.lost is not None:
            raise BucketError(self.lost)

    def release(self) -> None:
        """Lets the next process take the lease at once."""
        self._ended.set()
        self._thread.join()
        if self.lost is None:
            self._write(held=False)

    def _wait(
        self, holder: dict[str, Any], generation: int, report: Report
    ) -> tuple[dict[str, Any], int]:
        """Returns once the holder is known to be dead; a ConfigError if it is not."""
        url = self._objects.url
        who = printable(f"process {holder.get('pid')} on {holder.get('host')}")
        if _is_dead(holder):
            report(f"{url}: takes over from {who}, which has ended")
            return holder, generation
        report(
            f"{url}: {who} trains here; waiting {EXPIRE:.0f} s to see whether it lives"
        )
        end = time.monotonic() + EXPIRE
        while time.monotonic() < end:
            time.sleep(EXPIRE / 20)
            found = self._read()
            if found and not found[0].get("held"):
                return found
            if found and found[1] != generation:
                raise ConfigError(f"{url}: another process trains here: {who}")
        report(f"{url}: no sign of {who} for {EXPIRE:.0f} s: taken over")
        return holder, generation

    def _keep(self) -> None:
        while self.lost is None and not self._ended.wait(RENEW):
            with contextlib.suppress(BucketError):  # it may work again in time
                self._renew()

    def _renew(self) -> None:
        try:
            self._write(held=True)
        except Conflict:
            self.lost = f"{self._objects.url}: another process took over"
            self._on_loss()

    def _write(self, *, held: bool) -> None:
        me = {"session": self._session, "held": held, **_me()}
        content = json.dumps(me).encode()
        with self._writing:
            try:
                written = self._objects.write(NAME, content, self._generation)
            except Conflict:
                # ours, if the answer to an earlier write was lost
                found = self._read()
                if not found or found[0].get("session") != self._session:
                    raise
                written = self._objects.write(NAME, content, found[1])
            self._generation, self._confirmed = written, time.monotonic()

    def _read(self) -> tuple[dict[str, Any], int] | None:
        found = self._objects.read(NAME)
        if found is None:
            return None
        try:
            holder = parse_json(found[0])
        except ValueError:
            holder = None
        return (holder if isinstance(holder, dict) else {}), found[1]


def _me() -> dict[str, Any]:
    """This process, for people and for `_is_dead`."""
    pid = os.getpid()
    place = {"host": socket.gethostname(), "place": _place()}
    return {**place, "pid": pid, "started": _started(pid)}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    if not _place() or holder.get("place") != _place():
        return False
    return _started(holder.get("pid")) != holder.get("started")


def _place() -> str:
    """The boot and the process namespace: there a number means one process."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: then only time tells
        return ""


def _started(pid: Any) -> str:
    """When a process of this machine began, in ticks since the boot; "" if it ended."""
    try:
        stat = pathlib.Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, ValueError, TypeError):
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]
