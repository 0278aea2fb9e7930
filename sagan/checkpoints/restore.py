"""Opens saved runs for sampling, evaluation and visualization."""

import dataclasses
import difflib
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int32, PyTree

from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.workdir import (
    absolute,
    changed_data,
    class_names,
    known_classes,
    read_config,
)
from sagan.config.fields import fields, replace
from sagan.config.schema import MAY_CHANGE, Config, ConfigError
from sagan.config.validation import check_config
from sagan.data.pipeline import open_source
from sagan.data.source import Source, contents_digest
from sagan.runtime import cache
from sagan.runtime.progress import first_few
from sagan.state import GANState, abstract, generator_variables


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run's checkpoints for others to read; the run may be going on.

    Attributes:
      workdir: The run's directory.
      config: The run's config; data.classes is a number.
    """

    workdir: Path
    config: Config

    @functools.cached_property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints, opened once; a ConfigError if there are none."""
        folder = self.workdir / "checkpoints"
        if folder.is_dir():
            found = Checkpoints(folder, self.config.run.keep, read_only=True)
            if found.steps():
                return found
        raise ConfigError(f"{self.workdir}: has no checkpoint yet")

    def load(self, step: int | None = None) -> tuple[GANState, int]:
        """The state at a step (None: the newest good one), and its step.

        Raises:
          ConfigError: There is none, or it is damaged.
        """
        if step is not None:
            return self.checkpoints.restore_step(step, self._target), step
        restored = self.checkpoints.restore(self._target)
        if restored is None:
            raise ConfigError(f"{self.workdir}: has no checkpoint yet")
        return restored

    def steps(self, which: str, *, several: bool = True) -> list[int]:
        """The steps that "latest", "best", a step as text or, if several, "all" name.

        Raises:
          ConfigError: There is no such checkpoint.
        """
        steps = self.checkpoints.steps()
        if which == "all" and several:
            return steps
        if which == "latest":
            return steps[-1:]
        if which == "best":
            best = self.checkpoints.best()
            if best is None:
                raise ConfigError(
                    "--step best: no checkpoint of this run was evaluated while it"
                    " trained (run.evaluate_every)"
                )
            return [best]
        if not which.isdecimal() or int(which) not in steps:
            raise ConfigError(
                f"--step {which}: must be latest, best, {'all, ' * several}or one of"
                f" {', '.join(map(str, steps))}"
            )
        return [int(which)]

    @functools.cached_property
    def _target(self) -> GANState:
        return abstract(self.config)


class OpenedRun(NamedTuple):
    """A checkpoint of a run, and the weights to draw with.

    Attributes:
      saved: The run.
      state: The checkpoint's whole state.
      step: The state's step.
      average: Index of the chosen average; None: the raw weights.
    """

    saved: SavedRun
    state: GANState
    step: int
    average: int | None

    @property
    def workdir(self) -> Path:
        """The run's directory."""
        return self.saved.workdir

    @property
    def config(self) -> Config:
        """The run's config; data.classes is a number."""
        return self.saved.config

    @property
    def variables(self) -> dict[str, PyTree[Array]]:
        """The generator's collections with the chosen weights."""
        return generator_variables(self.state, self.average)

    @property
    def weights(self) -> str:
        """The chosen weights in words, such as "EMA 0.998"."""
        if self.average is None:
            return "raw weights"
        return f"EMA {self.config.ema.decays[self.average]}"

    @property
    def words(self) -> str:
        """Step and weights in words, such as "step 2000 (EMA 0.998)"."""
        return f"step {self.step} ({self.weights})"


def open_saved(workdir: Path, data_path: str = "") -> SavedRun:
    """A run, for a command that may read its data, from data_path if it is given.

    Data in a bucket are copied to the folder of the training, if it is on this machine,
    else to the cache directory.

    Raises:
      ConfigError: There is no such run, or data_path is no path.
    """
    config = read_config(workdir)
    values = {"data.path": absolute(data_path)} if data_path else {}
    if not os.access(os.path.expanduser(config.run.local_dir), os.W_OK):
        values["run.local_dir"] = ""
    config = replace(config, values)
    check_config(config)
    return SavedRun(workdir, config)


def open_run(
    workdir: Path,
    step: int | str | None = None,
    weights: str | None = None,
    data_path: str = "",
) -> OpenedRun:
    """Opens a checkpoint of a run, which may be going on.

    Args:
      workdir: The run's directory.
      step: The checkpoint's step, or "best"; "latest" or None: the newest good one.
      weights: "raw", "ema" (the first average) or the decay of an average; None or
        empty: the first average if there is one.
      data_path: Where the run's data are now; empty: where they were.

    Raises:
      ConfigError: There is no such run, checkpoint or average.
    """
    saved = open_saved(workdir, data_path)
    average = _average(saved.config, weights)
    newest = step in (None, "latest")  # which may be damaged: load finds a good one
    state, step = saved.load(
        None if newest else saved.steps(str(step), several=False)[0]
    )
    return OpenedRun(saved, state, step, average)


def labels_to_draw(
    config: Config, n: int, classes: Sequence[int] | None
) -> Int32[np.ndarray, " n"]:
    """Labels of n images: the given classes in turn, or all of them.

    Raises:
      ConfigError: There is no such class.
    """
    known = config.data.classes or 0
    for label in classes or ():
        if not known:
            raise ConfigError(f"--classes {label}: the run is unconditional")
        if label >= known:
            raise ConfigError(f"--classes {label}: must be 0 to {known - 1}")
    chosen = np.asarray(classes or np.arange(max(known, 1)), np.int32)
    return np.resize(chosen, n)


def find_labels(workdir: Path, classes: Sequence[str]) -> list[int] | None:
    """Labels of a run's classes, each given by its name or label; None: none given.

    Raises:
      ConfigError: There is no such run, or no class of this name.
    """
    config, names = read_config(workdir), class_names(workdir)
    why = f"no such class; there are {first_few(names)}"
    if not names:
        why = "the run's classes have no names: give labels"
    if config.data.classes == 0:
        why = "the run is unconditional"
    for text in classes:
        if text not in names and not text.isdecimal():
            if near := difflib.get_close_matches(text, names, n=1):
                why = f"no such class; did you mean {near[0]}?"
            raise ConfigError(f"--classes {text}: {why}")
    return [names.index(t) if t in names else int(t) for t in classes] or None


def _average(config: Config, weights: str | None) -> int | None:
    decays = config.ema.decays
    if not weights:
        return 0 if decays else None
    names = {"raw": None} | ({"ema": 0} if decays else {})
    names |= {str(decay): i for i, decay in enumerate(decays)}
    if weights not in names:
        raise ConfigError(f"--weights {weights}: there are {', '.join(names)}")
    return names[weights]


def open_data(workdir: Path, config: Config) -> Source:
    """The training images of a run.

    Raises:
      ConfigError: They cannot be read, or have other classes.
    """
    return open_source(config, known=known_classes(workdir))


def data_notes(workdir: Path, source: Source) -> list[str]:
    """A line for the user if a run's training images changed since it began."""
    return changed_data(workdir, len(source), contents_digest(source))


def config_digest(config: Config) -> str:
    """SHA-256 of the fields that decide a run: run.init_digest, not where it was."""
    without = MAY_CHANGE | {"run.init_from"}
    values = {k: v for k, v in fields(config).items() if k not in without}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def generator_digest(state: GANState) -> str:
    """SHA-256 of the generator's weights, statistics and averages."""
    return _digest(state.g.params, state.g.stats, state.ema)


def weights_digest(state: GANState) -> str:
    """SHA-256 of both networks' weights and statistics, and of the averages."""
    g, d = state.g, state.d
    return _digest(g.params, g.stats, d.params, d.stats, state.ema)


def _digest(*trees: PyTree[Array]) -> str:
    return cache.digest(*jax.device_get(jax.tree.leaves(trees)))
