"""Where the writer's lines go, opened so that a resumed run goes on in them."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import uuid
from typing import Any

from sagan.config import Config, ConfigError, fields


def drop_after(path: pathlib.Path, step: int, rollbacks: int = 0) -> None:
    """Keeps the lines up to `step`; a line torn by a kill has none and goes too.

    A line may say how many `rollbacks` there were before it: one with fewer than now
    stays, as training has passed it and then went back; one with more goes.
    """
    if not path.exists():
        return

    def stays(line: bytes) -> bool:
        try:
            row = json.loads(line)
            at = row.get("rollbacks", rollbacks), row["step"]
            return line.endswith(b"\n") and at <= (rollbacks, step)
        except (ValueError, KeyError, TypeError):
            return False

    lines = path.read_bytes().splitlines(keepends=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(b"".join(line for line in lines if stays(line)))
    os.replace(unfinished, path)


def start_tensorboard(workdir: pathlib.Path, start_step: int) -> Any:
    """A tensorboardX.SummaryWriter on `workdir`/tensorboard."""
    import tensorboardX  # only here: a run without it need not wait for it

    return tensorboardX.SummaryWriter(
        str(workdir / "tensorboard"),
        purge_step=start_step + 1,  # TensorBoard hides what was there of later steps
        filename_suffix=f".{start_step}",  # else the name is the second: overwritten
    )


def start_wandb(workdir: pathlib.Path, config: Config) -> Any:
    """A W&B run: the one that was started for `workdir` before, if any.

    Raises:
      ConfigError: wandb is not installed.
    """
    try:
        wandb: Any = importlib.import_module("wandb")
    except ImportError:
        wandb = None
    if not hasattr(wandb, "init"):  # W&B's own log folder ./wandb imports as well
        raise ConfigError("run.wandb: needs W&B: pip install 'sagan[wandb]'")
    path = workdir / "wandb_id.txt"
    if not path.exists():
        path.write_text(uuid.uuid4().hex)
    return wandb.init(
        project="sagan",
        name=workdir.absolute().name,
        id=path.read_text().strip(),
        resume="allow",
        dir=str(workdir),
        config=fields(config),
    )
