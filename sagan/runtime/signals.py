"""Ctrl-C and SIGTERM as a question that the loop asks, not as an exception."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Within this context the first SIGINT or SIGTERM only sets `requested`.

    The second one ends the process at once.

    Attributes:
      requested: there was a signal, in this process.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *, several: bool = False) -> None:
        """Prepares to take signals; `several` processes stop only if all heard."""
        self.requested = False
        self._several = several
        self._heard: Any = 0.0
        self._agreed = False
        self._before: dict[int, Any] = {}

    @property
    def agreed(self) -> bool:
        """Whether it is time to stop, in all processes after the same step."""
        return self._agreed if self._several else self.requested

    def hear(self, stop: Any) -> None:
        """Takes a step's metric `stop`: more than 0 where a process was asked to.

        It is read at the next call, when that step is done anyway.
        """
        self._agreed, self._heard = float(self._heard) > 0, stop

    def __enter__(self) -> Interrupt:
        for number in self.signals:
            self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for other in self.signals:
            signal.signal(other, signal.SIG_DFL)
