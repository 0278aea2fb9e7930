"""Ctrl-C and SIGTERM as a question that the loop asks, not as an exception."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Interrupt:
    """Within this context the first SIGINT or SIGTERM only sets `requested`.

    The second one acts as it would without us: it ends the process at once.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

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
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for other in self.signals:
            signal.signal(other, signal.SIG_DFL)
