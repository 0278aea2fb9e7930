"""Ctrl-C, SIGTERM and SIGHUP as a flag that the training loop reads."""

from __future__ import annotations

import shlex
import signal
import sys
from types import FrameType
from typing import Any


def same_command() -> str:
    """The command line of this process."""
    return shlex.join(["python", *sys.argv])


class Stopped(KeyboardInterrupt):
    """A signal came before there was anything to save."""


class Interrupt:
    """A context in which the first SIGINT, SIGTERM or SIGHUP only sets `requested`.

    While `preparing`, it also raises Stopped. A second SIGINT or SIGTERM ends the
    process at once. A second SIGHUP does not: a terminal that closes sends several.
    Where SIGHUP is ignored, as under nohup, it stays ignored.

    Attributes:
      requested: Whether this process got a signal.
      preparing: Whether there is nothing to save yet. The creator of the context sets
        it to False. Never true of `several` processes: the others would be lost.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *, several: bool = False) -> None:
        """Creates the context; `several` processes stop together: see `agreed`."""
        self.requested = False
        self.preparing = not several
        self._several = several
        self._latest: Any = 0.0
        self._agreed = False
        self._before: dict[int, Any] = {}

    @property
    def agreed(self) -> bool:
        """Whether to stop now; true in all processes after the same step."""
        return self._agreed if self._several else self.requested

    def request(self) -> None:
        """Asks for a stop as a signal does."""
        self.requested = True

    def observe(self, stop: Any) -> None:
        """Takes the scalar `stop` of a step: above 0 if any process got a signal.

        It is read one call later, so as not to wait for the step.
        """
        self._agreed, self._latest = float(self._latest) > 0, stop

    def __enter__(self) -> Interrupt:
        for number in (*self.signals, signal.SIGHUP):
            handler = signal.getsignal(number)
            if number != signal.SIGHUP or handler != signal.SIG_IGN:
                self._before[number] = handler
                signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in list(self._before.items()):
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        first, self.requested = not self.requested, True
        if number == signal.SIGHUP:
            self._before.pop(number, None)  # more may come, also after this context
        else:
            for other in self.signals:
                signal.signal(other, signal.SIG_DFL)
        if first and self.preparing:
            raise Stopped(
                "stopped before the first step; nothing is lost, and this starts again:"
                f"\n{same_command()}"
            )
