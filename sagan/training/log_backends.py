"""TensorBoard and Weights & Biases, opened so that a resumed run continues in them."""

from __future__ import annotations

import importlib
import pathlib
import time
import uuid
from collections.abc import Mapping
from typing import Any, final

import numpy as np
from jaxtyping import UInt8

from sagan.config.fields import fields
from sagan.config.schema import Config, ConfigError
from sagan.runtime.files import naming_file, own_folder, write_whole


@final
class Tensorboard:
    """Event files in `workdir`/tensorboard, written by the calling thread.

    The thread of tensorboardX.SummaryWriter dies unnoticed when the disk is full, and
    leaves screens of traceback at the end.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int):
        # imported here: a run without TensorBoard need not wait for it
        from tensorboardX import event_file_writer, summary

        proto: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        self._summary, self._event = summary, proto.Event
        self._folder = own_folder(workdir, "tensorboard")
        with naming_file(self._folder):
            # without the step the name is the second of the start, and overwritten
            name = str(self._folder / "events")
            self._events = event_file_writer.EventsWriter(name, f".{start_step}")
            # makes TensorBoard hide earlier points of this and later steps
            restart = proto.SessionLog(status=proto.SessionLog.START)
            self._write(start_step + 1, session_log=restart)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for name, value in values.items():
            self._write(step, summary=self._summary.scalar(name, value))
        with naming_file(self._folder):
            self._events.flush()

    def image(self, step: int, name: str, picture: UInt8[np.ndarray, "h w c"]) -> None:
        """Adds a picture."""
        shown = self._summary.image(name, picture, dataformats="HWC")
        self._write(step, summary=shown)

    def close(self) -> None:
        """Flushes and closes the files."""
        with naming_file(self._folder):
            self._events.close()

    def _write(self, step: int, **what: Any) -> None:
        with naming_file(self._folder):
            event = self._event(step=step, wall_time=time.time(), **what)
            self._events.write_event(event)


def start_wandb(workdir: pathlib.Path, config: Config) -> Any:
    """A W&B run: the one that an earlier start of `workdir` began, if any.

    Raises:
      ConfigError: wandb is not installed.
    """
    try:
        wandb: Any = importlib.import_module("wandb")
    except ImportError:
        wandb = None
    if not hasattr(wandb, "init"):  # W&B's log folder ./wandb can be imported too
        raise ConfigError("run.wandb: needs W&B: pip install 'sagan[wandb]'")
    path = workdir / "wandb_id.txt"
    if not path.exists():
        write_whole(path, uuid.uuid4().hex)
    return wandb.init(
        project="sagan",
        name=workdir.absolute().name,
        id=path.read_text(errors="replace").strip(),
        resume="allow",
        dir=str(workdir),
        config=fields(config),
    )
