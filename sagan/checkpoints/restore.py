"""Runs opened again by whoever comes after training."""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int32, PyTree

from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.workdir import read_config
from sagan.config.fields import fields
from sagan.config.schema import MAY_CHANGE, Config, ConfigError
from sagan.runtime import cache
from sagan.state import GANState, abstract, generator_variables


class Opened(NamedTuple):
    """A checkpoint of a run, to draw from.

    Attributes:
      workdir: of the run.
      config: of the run; data.classes is a number.
      state: whole.
      step: of the state.
      average: the index of the average that was chosen; None: the raw weights.
    """

    workdir: Path
    config: Config
    state: GANState
    step: int
    average: int | None

    @property
    def variables(self) -> dict[str, PyTree[Array]]:
        """The generator's collections: the weights that were chosen."""
        return generator_variables(self.state, self.average)

    @property
    def weights(self) -> str:
        """Such as: EMA 0.998."""
        if self.average is None:
            return "raw weights"
        return f"EMA {self.config.ema.decays[self.average]}"

    @property
    def words(self) -> str:
        """Such as: step 2000 (EMA 0.998)."""
        return f"step {self.step} ({self.weights})"


def open_run(
    workdir: Path, step: int | None = None, weights: str | None = None
) -> Opened:
    """A checkpoint of a run, which may be going on.

    Args:
      workdir: of the run.
      step: of the checkpoint; None: the newest good one.
      weights: "raw", "ema" (the first average) or the decay of one; None: the first
        average if there is one.

    Raises:
      ConfigError: there is no such run, checkpoint or average.
    """
    config = read_config(workdir)
    average = _average(config, weights)
    state, step = load_state(workdir, config, step)
    return Opened(workdir, config, state, step, average)


def load_state(
    workdir: Path, config: Config, step: int | None = None
) -> tuple[GANState, int]:
    """The state of a checkpoint, and its step; the run may be going on.

    Raises:
      ConfigError: there is none, or it is not good.
    """
    target = _target(config)
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise ConfigError(f"{workdir}: has no checkpoint yet")
    checkpoints = Checkpoints(folder, config.run.keep, read_only=True)
    if step is not None:
        return checkpoints.restore_step(step, target), step
    restored = checkpoints.restore(target)
    if restored is None:
        raise ConfigError(f"{workdir}: has no checkpoint yet")
    return restored


_target = functools.lru_cache(maxsize=4)(abstract)  # tracing takes its time


def checkpoint_steps(workdir: Path, config: Config, asked: str) -> list[int]:
    """The steps of "latest", "best", "all", or of one number.

    Raises:
      ConfigError: there is no such checkpoint.
    """
    folder = workdir / "checkpoints"
    found = None
    if folder.is_dir():
        found = Checkpoints(folder, config.run.keep, read_only=True)
    if found is None or not found.steps():
        raise ConfigError(f"{workdir}: has no checkpoint yet")
    known = found.steps()
    if asked == "all":
        return known
    if asked == "latest":
        return known[-1:]
    if asked == "best":
        best = found.best()
        if best is None:
            raise ConfigError(
                "--step best: no checkpoint of this run was evaluated while it trained"
                " (run.evaluate_every)"
            )
        return [best]
    if not asked.isdecimal() or int(asked) not in known:
        raise ConfigError(
            f"--step {asked}: must be latest, best, all, or one of"
            f" {', '.join(map(str, known))}"
        )
    return [int(asked)]


def labels_to_draw(
    config: Config, n: int, classes: Sequence[int] | None
) -> Int32[np.ndarray, " n"]:
    """The labels of n images: the classes in turn, or all of them.

    Raises:
      ConfigError: there is no such class.
    """
    known = config.data.classes or 0
    for label in classes or ():
        if not known:
            raise ConfigError(f"--classes {label}: the run is unconditional")
        if label >= known:
            raise ConfigError(f"--classes {label}: must be 0 to {known - 1}")
    chosen = np.asarray(classes or np.arange(max(known, 1)), np.int32)
    return np.resize(chosen, n)


def _average(config: Config, weights: str | None) -> int | None:
    decays = config.ema.decays
    if weights is None:
        return 0 if decays else None
    names = {"raw": None} | ({"ema": 0} if decays else {})
    names |= {str(decay): i for i, decay in enumerate(decays)}
    if weights not in names:
        raise ConfigError(f"--weights {weights}: there are {', '.join(names)}")
    return names[weights]


def config_digest(config: Config) -> str:
    """SHA-256 of the fields that make the experiment: not of those that may change."""
    values = {k: v for k, v in fields(config).items() if k not in MAY_CHANGE}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def generator_digest(state: GANState) -> str:
    """SHA-256 of the generator's weights, statistics and averages."""
    leaves = jax.tree.leaves((state.g.params, state.g.stats, state.ema))
    return cache.digest(*jax.device_get(leaves))
