"""The scalars of each step, one step late, handed to the monitor and the logger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, final

import jax
from jax.typing import ArrayLike

from sagan.runtime.progress import Report
from sagan.training.divergence import MUST_BE_FINITE, NEEDED, Finding
from sagan.training.logger import Logger
from sagan.training.monitor import Monitor


class Rollback(NamedTuple):
    """A reason to go back, and the step at which it was found."""

    step: int
    finding: Finding


class _Pending(NamedTuple):
    """A step whose scalars may still be being computed."""

    step: int
    values: dict[str, ArrayLike]
    logged: bool


@final
class Feedback:
    """Reads each step's scalars while the devices compute the next step.

    The devices always have a step to work on, and never more than two; a CPU has ended
    its step when the call returns (runtime/memory.py).

    Attributes:
      latest: The values in MUST_BE_FINITE of the last step that was read.
    """

    def __init__(self, monitor: Monitor, logger: Logger, report: Report):
        self.latest: dict[str, float] = {}
        self._monitor = monitor
        self._logger = logger
        self._report = report
        self._pending: _Pending | None = None

    @property
    def memory(self) -> dict[str, Any]:
        """The monitor's memory as of the last step that was read."""
        return self._monitor.memory

    def put(
        self, step: int, values: Mapping[str, ArrayLike], *, logged: bool
    ) -> Rollback | None:
        """Takes a step's scalars, and deals with those of the step before.

        Args:
          step: Rises by one from call to call.
          values: Scalars that may still be being computed.
          logged: Whether to log this step.

        Raises:
          Diverged: The step before it cannot be followed by another.
        """
        rollback = self.flush()
        self._pending = _Pending(step, dict(values), logged)
        return rollback

    def flush(self) -> Rollback | None:
        """Deals with the last step, before its state is saved, say. Raises as put."""
        if self._pending is None:
            return None
        (step, values, logged), self._pending = self._pending, None
        names = values if logged else [name for name in NEEDED if name in values]
        fetched = jax.device_get([values[name] for name in names])
        read = {name: float(v) for name, v in zip(names, fetched, strict=True)}
        verdict = self._monitor.examine(step, read)
        for line in verdict.lines:
            self._report(line)
        if verdict.error is not None:
            raise verdict.error
        if verdict.rollback is not None:
            return Rollback(step, verdict.rollback)
        self.latest = {name: read[name] for name in MUST_BE_FINITE if name in read}
        if logged:
            self._logger.log(step, read)
        return None
