"""A trace of a few steps, for TensorBoard's profile page, xprof and Perfetto."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import jax

from sagan.config.schema import Config
from sagan.runtime.files import own_folder
from sagan.runtime.progress import Report


@final
class Profiler:
    """Traces the steps of run.profile = START:STEPS into `workdir`/tensorboard.

    They are the STEPS steps after step START; if this start of the run goes on from
    there, its first step, which compiles, is left out. A trace that cannot be written
    is told, and training goes on.
    """

    def __init__(
        self, workdir: Path, config: Config, step: int, report: Report, *, active: bool
    ):
        self._workdir, self._report = workdir, report
        self._tracing, self._begin, self._end = False, -1, -1
        if active and config.run.profile:
            start, steps = map(int, config.run.profile.split(":"))
            self._begin = max(start, step + 1) if step <= start else -1
            self._end = self._begin + steps

    def at(self, step: int, state: Any) -> None:
        """Begins or ends the trace, if `step`, which led to `state`, is where."""
        if step == self._begin:
            jax.block_until_ready(state)
            self._tracing = self._can(self._start)
        elif step == self._end and self._tracing:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends the trace, if one has begun."""
        if self._tracing:
            self._tracing = False
            if self._can(jax.profiler.stop_trace):
                folder = self._workdir / "tensorboard" / "plugins" / "profile"
                self._report(f"run.profile: the trace is in {folder}")

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # each call in Python would be an event
        folder = own_folder(self._workdir, "tensorboard", "plugins", "profile")
        jax.profiler.start_trace(folder.parents[1], profiler_options=options)

    def _can(self, act: Callable[[], Any]) -> bool:
        try:
            act()
        except Exception as error:  # of a full disk, or of a trace that others began
            self._report(f"run.profile: no trace: {error}")
            return False
        return True
