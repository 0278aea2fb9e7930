"""Judges, from the numbers of each step, whether training goes well; and acts."""

from __future__ import annotations

import collections
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, final

import jax
from jaxtyping import Array, Float

from sagan.config.schema import Config
from sagan.diagnostics import sigma_errors, vitals
from sagan.runtime import files
from sagan.runtime.files import naming
from sagan.state import GANState, leaf_paths
from sagan.training.divergence import MEMORY, SYMPTOMS, Values
from sagan.training.logger import PLAYERS, STOPS, UNLOGGED, Diverged, diagnosis


class Finding(NamedTuple):
    """What is wrong, in one line.

    Attributes:
      name: one of SYMPTOMS, or nonfinite.
      since: the first step that shows it.
      message: names the value, what is normal, and what may help.
    """

    name: str
    since: int
    message: str


@final
class Doctor:
    """Finds what is wrong from the values of every step: numbers in, findings out.

    What it says depends on the values it has seen alone. They are equal in every
    process, so all of them decide alike.
    """

    def __init__(self, names: Mapping[str, list[str]]):
        """Begins with an empty memory.

        Args:
          names: leaf_paths of the leaves that the values in UNLOGGED count: leaf_names.
        """
        self._names = names
        self._past = collections.defaultdict[str, collections.deque[float]](
            lambda: collections.deque(maxlen=MEMORY)
        )
        self._shown: dict[str, tuple[int, int]] = {}  # since, and how often in a row

    def examine(self, step: int, values: Values) -> list[Finding]:
        """What is found at this step for the first time since it was absent.

        Args:
          step: rises by one from call to call.
          values: those in CHECKED and WATCHED, and at some steps sigma_errors.
        """
        found = [self._nonfinite(values)]
        for name, symptom in SYMPTOMS.items():
            if all(need in values for need in symptom.needs):
                found.append((name, symptom.sign(values, self._past), symptom.lasts))
        new = []
        for name, message, lasts in found:
            if message is None:
                self._shown.pop(name, None)
                continue
            since, times = self._shown.get(name, (step, 0))
            self._shown[name] = since, times + 1
            if times + 1 == lasts:
                new.append(Finding(name, since, message))
        for player in PLAYERS:
            if (name := f"{player}_grad_norm") in values:
                self._past[name].append(values[name])
        return new

    def _nonfinite(self, values: Values) -> tuple[str, str | None, int]:
        """What is not a number, and the first leaf that is not."""
        parts = []
        if told := diagnosis(values):
            parts.append(told[1])
        for name in UNLOGGED:
            if (number := int(values.get(name, -1))) >= 0:
                leaf = self._names[name][number]
                parts.append(f"the first leaf that is not finite is {leaf}")
                break
        return "nonfinite", "; ".join(parts) or None, 1


class GoBack(Exception):
    """Training is to go on from a state before this finding."""

    def __init__(self, finding: Finding, step: int):
        super().__init__(finding.message)
        self.finding = finding
        self.step = step


@final
class Watch:
    """Tells what the doctor finds, and ends the steps where they should not go on.

    A finding is one line for the user and one of `doctor.jsonl`. Those of steps that a
    resumed run does again are dropped from there first.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        config: Config,
        state: GANState,
        report: Callable[[str], None],
        active: bool = True,
    ):
        """Begins at a state.

        Args:
          workdir: of the run.
          config: of the run.
          state: from which training starts.
          report: takes the lines for the user.
          active: write doctor.jsonl; in one process.
        """
        self.rollbacks = int(state.rollbacks)
        self._limit = config.run.rollbacks
        self._goes_back = config.run.on_divergence == "rollback"
        self._report = report
        self._active = active
        self._path = workdir / "doctor.jsonl"
        self._doctor = Doctor(leaf_names(state))
        if active:
            files.drop_lines_after(self._path, int(state.step), self.rollbacks)

    def __call__(self, step: int, values: Values) -> None:
        """Examines a step.

        Raises:
          Diverged: a value in CHECKED is not finite, or there is a reason to go back
            and that was done run.rollbacks times.
          GoBack: there is a reason to go back.
        """
        for finding in self._doctor.examine(step, values):
            self.record(step, finding)
            if self._goes_back and _is_reason(finding):
                if self.rollbacks < self._limit:
                    raise GoBack(finding, step)
                done = f"went back run.rollbacks = {self._limit} times, and no more"
                raise Diverged(step, finding.name, f"{finding.message}; {done}")
            if finding.name == "nonfinite" and diagnosis(values):
                raise Diverged(step, finding.name, f"{finding.message}; {STOPS}")
            self._report(f"step {step}: {finding.message}")

    def record(self, step: int, finding: Finding) -> None:
        """Writes a line of doctor.jsonl."""
        if not self._active:
            return
        line = {"step": step, "finding": finding.name, "since": finding.since}
        line |= {"message": finding.message, "rollbacks": self.rollbacks}
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _is_reason(finding: Finding) -> bool:
    return finding.name == "nonfinite" or SYMPTOMS[finding.name].goes_back


def leaf_names(state: GANState) -> dict[str, list[str]]:
    """The leaf_paths of the leaves that each value in UNLOGGED counts."""
    gradients = {
        f"nonfinite/{name}_gradient": [
            f"{name}/gradient/{p}" for p in leaf_paths(params)
        ]
        for name, params in (("d", state.d.params), ("g", state.g.params))
    }
    return {"nonfinite/state": leaf_paths(vitals(state)), **gradients}


def look(config: Config, step: int, state: GANState) -> dict[str, Float[Array, ""]]:
    """sigma_errors every run.watch_every steps, on one device of this process."""
    if step % config.run.watch_every:
        return {}
    of_one = jax.tree.map(lambda x: x.addressable_data(0), state)
    return _compiled(config)(of_one)


@functools.cache
def _compiled(config: Config) -> Any:
    return jax.jit(functools.partial(sigma_errors, config))
