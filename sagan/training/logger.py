"""What a run leaves behind for people: metrics.jsonl, TensorBoard, W&B, pictures."""

from __future__ import annotations

import io
import json
import math
import os
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import NamedTuple, final

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import UInt8
from PIL import Image

from sagan.config.schema import Config
from sagan.runtime import files
from sagan.runtime.files import file_name, naming
from sagan.training import log_backends

PLAYERS = {"d": "the discriminator", "g": "the generator"}
CHECKED = tuple(
    f"{player}_{what}"
    for what in ("loss", "grad_norm", "weight_norm")
    for player in PLAYERS
)
# what the doctor reads at each step besides; the first part of it is not worth a curve
UNLOGGED = ("nonfinite/state", "nonfinite/d_gradient", "nonfinite/g_gradient")
WATCHED = (
    *UNLOGGED,
    *("d_real", "d_fake", "d_saturated", "real_diversity", "fake_diversity"),
)
STOPS = (
    "the newest checkpoint is from before; lower rates need a new workdir, or go on"
    " with --run.on-divergence rollback"
)
Watch = Callable[[int, Mapping[str, float]], None]


class Diverged(FloatingPointError):
    """A loss, or the norm of a gradient or of the weights, is no longer a number.

    Attributes:
      step: where it was seen first.
      name: one of CHECKED, or the name of the doctor's finding.
    """

    def __init__(self, step: int, name: str, message: str):
        super().__init__(f"step {step}: {message}")
        self.step = step
        self.name = name


def diagnosis(values: Mapping[str, float]) -> tuple[str, str] | None:
    """Which value in CHECKED is not finite, if any, and what that means."""
    for name in CHECKED:
        if not math.isfinite(values.get(name, 0.0)):
            return name, f"{name} is {values[name]}: {PLAYERS[name[0]]} diverged"
    return None


class _Pending(NamedTuple):
    """A step whose values may still be being computed; `log` it whatever its number."""

    step: int
    values: dict[str, ArrayLike]
    log: bool


@final
class Writer:
    """Checks each step and logs every `run.log_every`th, one call behind the device.

    `write` keeps its arrays and waits for those of the call before: the device always
    has a step to work on, and never more than two. A line of metrics.jsonl holds the
    values of its step alone, so a resumed run leaves the lines of an unbroken one.
    JSON has no infinities: such a value is the string "nan", "inf" or "-inf", which
    Python's `float` reads.

    Attributes:
      latest: the checked values of the last step whose values have arrived.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        config: Config,
        start_step: int,
        *,
        active: bool = True,
        watch: Watch | None = None,
    ):
        """Opens the logs, and drops from metrics.jsonl what `start_step` undoes.

        Args:
          workdir: the run's directory.
          config: its config.
          start_step: the step of the state that training starts from.
          active: write; False (in all processes but one) only checks.
          watch: is given each step and its values in CHECKED and WATCHED, before they
            are checked and logged.

        Raises:
          ConfigError: `run.wandb` is set and wandb is not installed.
        """
        self.latest: dict[str, float] = {}
        self._workdir = pathlib.Path(workdir)
        self._active = active
        self._watch = watch
        self._every = config.run.log_every
        self._pending: _Pending | None = None
        self._wandb = self._tensorboard = self._lines = None
        if not active:
            return
        if config.run.wandb:
            self._wandb = log_backends.start_wandb(self._workdir, config)
        if config.run.tensorboard:
            self._tensorboard = log_backends.Tensorboard(self._workdir, start_step)
        path = self._workdir / "metrics.jsonl"
        files.drop_lines_after(path, start_step)
        self._lines = path.open("a", encoding="utf-8")

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        failed = True
        try:
            if error is None:
                self.flush()
                failed = False
        finally:
            for log in (self._lines, self._tensorboard):
                try:
                    if log is not None:
                        log.close()
                except OSError:  # of a full disk: once is enough
                    if not failed:
                        raise
            if self._wandb is not None:
                self._wandb.finish(exit_code=int(failed))

    def write(
        self,
        step: int,
        metrics: Mapping[str, ArrayLike],
        extra: Mapping[str, float] | None = None,
        look: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Takes a step's scalars, and deals with those of the call before.

        Args:
          step: rises from call to call.
          metrics: scalars that may still be being computed.
          extra: what the loop measured, such as images_per_s: logged last.
          look: scalars of a cadence of their own: they log their step.

        Raises:
          Diverged: a value in CHECKED of the step before is not finite.
        """
        values = {**metrics, **(look or {}), **(extra or {})}
        self.flush(pending=_Pending(step, values, log=bool(look)))

    def flush(self, *, pending: _Pending | None = None) -> None:
        """Deals with the step that is pending: before its state is saved, say.

        Raises:
          Diverged: a value in CHECKED of that step is not finite.
        """
        ready, self._pending = self._pending, pending
        if ready is None:
            return
        step, metrics, log = ready
        log |= step % self._every == 0
        names = metrics if log else [n for n in CHECKED + WATCHED if n in metrics]
        fetched = jax.device_get([metrics[name] for name in names])
        values = {n: float(v) for n, v in zip(names, fetched, strict=True)}
        if self._watch is not None:
            self._watch(step, values)
        self.latest = {name: values[name] for name in CHECKED if name in values}
        if (found := diagnosis(values)) is not None:
            raise Diverged(step, found[0], f"{found[1]}; {STOPS}")
        if log and self._active:
            self._log(step, {n: v for n, v in values.items() if n not in UNLOGGED})

    def image(self, step: int, name: str, picture: UInt8[np.ndarray, "h w c"]) -> None:
        """Writes samples/<name>_<step>.png, whole or not at all."""
        if not self._active:
            return
        path = self._workdir / "samples" / file_name(f"{name}_{step:08d}.png")
        path.parent.mkdir(exist_ok=True)
        grey = picture.shape[-1] == 1
        encoded = io.BytesIO()
        Image.fromarray(picture[..., 0] if grey else picture).save(encoded, "PNG")
        unfinished = path.with_suffix(".unfinished")
        with naming(path):
            unfinished.write_bytes(encoded.getvalue())
            os.replace(unfinished, path)
        if self._tensorboard is not None:
            self._tensorboard.image(step, name, picture)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Draws further curves in TensorBoard and W&B, and nothing in metrics.jsonl."""
        if self._tensorboard is not None:
            self._tensorboard.scalars(step, values)
        if self._wandb is not None and values:
            self._wandb.log(dict(values), step=step)

    def _log(self, step: int, values: dict[str, float]) -> None:
        line = {n: v if math.isfinite(v) else str(v) for n, v in values.items()}
        if self._lines is not None:
            with naming(self._workdir / "metrics.jsonl"):
                self._lines.write(json.dumps({"step": step, **line}) + "\n")
                self._lines.flush()
        self.scalars(step, values)
