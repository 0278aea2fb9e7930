"""The progress of training: a bar on a terminal, lines elsewhere."""

import hashlib
import sys
import threading
import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sagan.checkpoints.restore import config_digest
from sagan.config.schema import Config
from sagan.runtime import cache
from sagan.runtime.progress import Report
from sagan.training.feedback import Feedback, Rollback
from sagan.training.timing import Clocks


class Progress:
    """The bar on the terminal or, without one, a line at every logged step."""

    def __init__(
        self,
        config: Config,
        step: int,
        feedback: Feedback,
        clocks: Clocks,
        report: Report,
    ) -> None:
        """Says that the step will be compiled.

        Args:
          config: The run's.
          step: Steps that were made.
          feedback: Where the losses come from.
          clocks: Measure the steps.
          report: Takes the lines.
        """
        self._feedback, self._clocks, self._report = feedback, clocks, report
        self._log_every, self._first = config.run.log_every, step + 1
        self._rate: dict[str, str] = {}  # as of the last logged step
        self._key = f"first_step_{_program(config)}"
        before = cache.read_arrays(self._key).get("seconds")
        known = "" if before is None else f" ({before:.0f} s the last time here)"
        report(f"compiling the step{known}")
        self._bar = tqdm(
            total=config.run.steps,
            initial=step,
            disable=None,
            unit="step",
            dynamic_ncols=True,
        )
        self._compiled = threading.Event()
        self._ticking = threading.Thread(target=self._tick, daemon=True)
        if not self._bar.disable:
            self._ticking.start()

    def close(self) -> None:
        """Ends the bar."""
        self._end_ticking()
        self._bar.close()

    def _tick(self) -> None:
        began = time.perf_counter()
        while not self._compiled.wait(1):
            seconds = time.perf_counter() - began
            self._bar.set_description(f"compiling, {seconds:.0f} s")

    def _end_ticking(self) -> None:
        self._compiled.set()
        if self._ticking.is_alive():
            self._ticking.join()
            self._bar.set_description()

    def rates(self, step: int, state: Any) -> dict[str, float]:
        """Clocks.read at a logged step; empty at any other, and at the first."""
        if step == self._first:
            seconds = self._clocks.first(step, state)
            self._end_ticking()
            cache.keep_arrays(self._key, {"seconds": np.array(seconds)})
            self._report(f"first step: {seconds:.0f} s, compiling included")
            return {}
        return {} if step % self._log_every else self._clocks.read(step)

    def show(self, step: int, rates: dict[str, float]) -> Rollback | None:
        """Shows a step; a logged one with its own losses, which may need a rollback."""
        # with or without a terminal: all processes must roll back after the same step
        if rates and (rollback := self._feedback.flush()):
            return rollback
        latest = self._feedback.latest
        values = {k: f"{v:.3f}" for k, v in latest.items() if k.endswith("loss")}
        if rates:
            self._rate = {"images_per_s": f"{rates['images_per_s']:.0f}"}
        values |= self._rate
        self._bar.set_postfix(values, refresh=False)
        self._bar.update()
        if rates and not sys.stderr.isatty():  # or no longer: see output.py
            listed = ", ".join(f"{name} {value}" for name, value in values.items())
            self._report(f"step {step} of {self._bar.total}: {listed}")
        return None


def _program(config: Config) -> str:
    """A digest of what the compiled step depends on."""
    devices = jax.device_count(), jax.devices()[0].device_kind, jax.__version__
    text = repr((config_digest(config), config.run.parallel, devices))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
