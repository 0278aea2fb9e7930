"""Watches a run: tells what it finds, and says when to stop or to roll back."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any, NamedTuple, final

import jax
from jaxtyping import Array, Float

from sagan.config.schema import Config
from sagan.diagnostics import sigma_errors, trained_parts
from sagan.runtime.files import drop_lines_after, naming_file, open_append
from sagan.state import GANState, leaf_paths
from sagan.training.divergence import (
    CHECKS,
    Detector,
    Diverged,
    Finding,
    Values,
    first_not_finite,
)

STOPPED = (
    "the newest checkpoint is older than this step; start a new workdir with lower"
    " rates, or continue with --run.on-divergence rollback"
)


class Verdict(NamedTuple):
    """Instructions for the loop after a step.

    Attributes:
      lines: Lines for the user.
      rollback: A reason to go back to a state from before it, or None.
      error: A reason to stop, or None.
    """

    lines: list[str]
    rollback: Finding | None = None
    error: Diverged | None = None


@final
class Monitor:
    """Examines every step. Each finding is one line for the user and of monitor.jsonl.

    Lines of steps that a resumed run does again are dropped from there first.

    Attributes:
      rollbacks: Number of rollbacks so far.
      note: A line for the user about damaged lines there, or None.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        config: Config,
        state: GANState,
        memory: Any = None,
        *,
        active: bool,
    ):
        """Starts from a state.

        Args:
          workdir: The run's directory.
          config: The run's config.
          state: The state that training starts from.
          memory: The memory of the monitor that saw the steps before it, if any.
          active: Whether to write monitor.jsonl: in one process only.
        """
        self.rollbacks = int(state.rollbacks)
        self._run = config.run
        self._active = active
        self._path = workdir / "monitor.jsonl"
        self._detector = Detector(leaf_names(state), memory)
        self.note = None
        if active:
            self.note = drop_lines_after(self._path, int(state.step), self.rollbacks)

    @property
    def memory(self) -> dict[str, Any]:
        """JSON values: streaks and gradient norms, to be saved with the state."""
        return self._detector.memory

    def examine(self, step: int, values: Values) -> Verdict:
        """Examines a step's values: those in NEEDED, and sometimes errors of sigma."""
        lines, bad = [], first_not_finite(values)
        for finding in self._detector.examine(step, values):
            self.record(step, finding)
            name, message = finding.name, finding.message
            rolls_back = name == "nonfinite" or CHECKS[name].rolls_back
            if self._run.on_divergence == "rollback" and rolls_back:
                if self.rollbacks < self._run.rollbacks:
                    return Verdict(lines, rollback=finding)
                done = (
                    f"already rolled back run.rollbacks = {self._run.rollbacks} times"
                )
                return Verdict(lines, error=Diverged(step, name, f"{message}; {done}"))
            if name == "nonfinite" and bad:
                bad = bad[0], message  # which names the leaf too
                break
            lines.append(f"step {step}: {message}")
        if bad is None:
            return Verdict(lines)
        return Verdict(lines, error=Diverged(step, bad[0], f"{bad[1]}; {STOPPED}"))

    def record(self, step: int, finding: Finding) -> None:
        """Writes a line of monitor.jsonl."""
        if not self._active:
            return
        line = {"step": step, "finding": finding.name, "since": finding.since}
        line |= {"message": finding.message, "rollbacks": self.rollbacks}
        with naming_file(self._path), open_append(self._path) as file:
            file.write(json.dumps(line) + "\n")


def leaf_names(state: GANState) -> dict[str, list[str]]:
    """The paths that each of divergence.NONFINITE_LEAF is an index into."""
    gradients = {
        f"nonfinite/{p}_gradient": [f"{p}/gradient/{path}" for path in leaf_paths(tree)]
        for p, tree in (("d", state.d.params), ("g", state.g.params))
    }
    parts = trained_parts(state).items()
    return gradients | {f"nonfinite/{p}_state": leaf_paths(tree) for p, tree in parts}


def measure_sigma(
    config: Config, step: int, state: GANState
) -> dict[str, Float[Array, ""]]:
    """sigma_errors every run.watch_every steps, on one device of this process."""
    if step % config.run.watch_every:
        return {}
    on_one_device = jax.tree.map(lambda x: x.addressable_data(0), state)
    return _compiled_sigma_errors(config)(on_one_device)


@functools.cache
def _compiled_sigma_errors(config: Config) -> Any:
    return jax.jit(functools.partial(sigma_errors, config))
