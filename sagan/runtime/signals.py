"""Ctrl-C and SIGTERM as a flag that the training loop reads."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Interrupt:
    """A context in which the first SIGINT or SIGTERM only sets `requested`.

    A second signal ends the process at once.

    Attributes:
      requested: Whether this process got a signal.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *, several: bool = False) -> None:
        """Creates the context; `several` processes stop together: see `agreed`."""
        self.requested = False
        self._several = several
        self._latest: Any = 0.0
        self._agreed = False
        self._before: dict[int, Any] = {}

    @property
    def agreed(self) -> bool:
        """Whether to stop now; true in all processes after the same step."""
        return self._agreed if self._several else self.requested

    def observe(self, stop: Any) -> None:
        """Takes the scalar `stop` of a step: above 0 if any process got a signal.

        It is read one call later, so as not to wait for the step.
        """
        self._agreed, self._latest = float(self._latest) > 0, stop

    def __enter__(self) -> Interrupt:
        for number in self.signals:
            self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for other in self.signals:
            signal.signal(other, signal.SIG_DFL)
