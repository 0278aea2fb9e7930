"""Writes what a run leaves for people: metrics.jsonl, TensorBoard, W&B, pictures."""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, final

import numpy as np
from jaxtyping import UInt8

from sagan.config.schema import Config
from sagan.runtime.files import (
    drop_lines_after,
    file_name,
    last_row,
    naming_file,
    open_append,
    own_folder,
    write_whole,
)
from sagan.sampling.grid import png
from sagan.training import log_backends
from sagan.training.divergence import NONFINITE_LEAF


@final
class Logger:
    """Writes scalars and pictures of steps wherever the config asks for.

    A line of metrics.jsonl holds the values of its step alone, so a resumed run leaves
    the lines of an unbroken one. JSON has no infinities: such a value is the string
    "nan", "inf" or "-inf", which Python's `float` reads.

    Attributes:
      note: A line for the user about damaged lines of metrics.jsonl, or None.
      last: The last line with times that `start_step` leaves; may be empty.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        config: Config,
        start_step: int,
        *,
        active: bool = True,
    ):
        """Opens the logs, and drops from metrics.jsonl what `start_step` undoes.

        Args:
          workdir: The run's directory.
          config: The run's config.
          start_step: Step of the state that training starts from.
          active: Whether to write: in one process only.

        Raises:
          ConfigError: `run.wandb` is set and wandb is not installed.
        """
        self._workdir = pathlib.Path(workdir)
        self._active = active
        self.note = self._wandb = self._tensorboard = self._lines = None
        self.last: dict[str, Any] = {}
        if not active:
            return
        if config.run.wandb:
            self._wandb = log_backends.start_wandb(self._workdir, config)
        if config.run.tensorboard:
            self._tensorboard = log_backends.Tensorboard(self._workdir, start_step)
        path = self._workdir / "metrics.jsonl"
        self.note = drop_lines_after(path, start_step)
        self.last = last_row(path, "time/unix_s")
        self._lines = open_append(path)

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for log in (self._lines, self._tensorboard):
            # a full disk fails twice: once is enough to say so
            with contextlib.suppress(OSError) if error else contextlib.nullcontext():
                if log is not None:
                    log.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=int(error is not None))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a line of metrics.jsonl, and a point of every curve."""
        values = {n: v for n, v in values.items() if n not in NONFINITE_LEAF}
        line = {n: v if math.isfinite(v) else str(v) for n, v in values.items()}
        if self._lines is not None:
            with naming_file(self._workdir / "metrics.jsonl"):
                self._lines.write(json.dumps({"step": step, **line}) + "\n")
                self._lines.flush()
        self.curves(step, values)

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        """Adds to the curves of TensorBoard and W&B, and nothing to metrics.jsonl."""
        if self._tensorboard is not None:
            self._tensorboard.scalars(step, values)
        if self._wandb is not None and values:
            self._wandb.log(dict(values), step=step)

    def image(self, step: int, name: str, picture: UInt8[np.ndarray, "h w c"]) -> None:
        """Writes samples/<name>_<step>.png, whole or not at all."""
        if not self._active:
            return
        folder = own_folder(self._workdir, "samples")
        write_whole(folder / file_name(f"{name}_{step:08d}.png"), png(picture))
        if self._tensorboard is not None:
            self._tensorboard.image(step, name, picture)
