"""Checkpoints: written while training goes on, trusted only after verification."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, final

import jax
import numpy as np
import orbax.checkpoint as ocp

from sagan.checkpoints import bucket_copy, serialization
from sagan.config.schema import ConfigError
from sagan.runtime.files import own_folder
from sagan.runtime.progress import Report


@final
class Checkpoints:
    """The checkpoints of one run: the `keep` newest, as many regular, and the best.

    Orbax writes the files, but neither notices a flipped byte in array data nor falls
    back to an older step. So each checkpoint holds a checksum of the whole state, and
    `restore` takes the newest one that matches its own.

    Only process 0 writes checkpoints: each process has the whole state. The directory
    has a folder for each step, `bad/` for damaged checkpoints that `restore` set aside,
    and `diverged/` for those that a rollback set aside.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        keep: int,
        report: Report = print,
        *,
        every: int = 1,
        read_only: bool = False,
    ):
        """Opens the directory, and removes checkpoints that a kill left half written.

        Args:
          directory: Created if it does not exist.
          keep: Number of newest checkpoints to keep, and of newest regular ones.
          report: Takes a line about each checkpoint that `restore` passes over.
          every: Steps between regular checkpoints. Others, of a run that was stopped,
            push no regular one out, and a rollback does not go to them: so a stopped
            run ends as an unbroken one.
          read_only: Create, remove and rename nothing: the run may be going on.
        """
        serialization.quiet_orbax()
        self.directory = pathlib.Path(directory).absolute()
        self._report = report
        self._every = every
        self._meta: dict[int, dict[str, Any]] = {}  # by step; empty if damaged
        self._read_only = read_only
        self._writing: int | None = None
        if not read_only:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            own_folder(self.directory.parent, self.directory.name)
        me = jax.process_index()
        self._options = ocp.CheckpointManagerOptions(
            create=False,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            preservation_policy=_NewestAndBest(keep, self._is_regular, self.best),
            lightweight_initialize=True,  # else one broken step stops the start
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=me,  # else it waits for the other processes
                active_processes={me} if jax.process_count() > 1 else None,
                barrier_sync_key_prefix="sagan",
            ),
        )
        self._manager = self._open()
        # Not Orbax's best_fn: one unreadable file of its metrics stops every start.
        for step in self.steps():
            if not read_only:
                own_folder(self.directory, str(step))  # Orbax removes no link
            folder = self.directory / str(step)
            self._meta[step] = serialization.read_meta(folder) or {}

    def save(
        self,
        step: int,
        state: Any,
        metrics: Mapping[str, float] | None = None,
        memory: Any = None,
    ) -> bool:
        """Starts to write a checkpoint; False if this step has one already.

        Returns once the state is copied to the host: it may be donated at once.

        Args:
          step: Higher than the step of every existing checkpoint.
          state: A PyTree of arrays, each whole in this process.
          metrics: Kept with the state. The checkpoint with the lowest value named
            `metric` is the best.
          memory: JSON values, kept with the state for `memory`.

        Raises:
          OSError: The previous checkpoint could not be written.
        """
        self.wait()
        if step in self.steps():
            return False
        if step < (self.latest() or 0):
            raise ValueError(f"step {step}: there is a newer one, {self.latest()}")
        arrays = serialization.take(state)
        more = {"memory": memory, "regular": step % self._every == 0}
        items = serialization.items(step, arrays, metrics or {}, **more)
        self._meta[step] = items["meta"].item
        self._writing = step
        self._or_not_written(lambda: self._manager.save(step, args=items, force=True))
        return True

    def restore(self, target: Any) -> tuple[Any, int] | None:
        """The newest good state and its step; None if there never was a checkpoint.

        Damaged ones that are newer are reported and moved to `bad/`.

        Args:
          target: The state's PyTree of arrays or jax.ShapeDtypeStruct. Its shardings
            place the leaves, whatever devices the state was on before.

        Raises:
          ConfigError: No checkpoint is good (then none is moved), or the newest good
            one does not have the target's shapes.
        """
        self.wait()
        bad: list[int] = []
        for step in reversed(self.steps()):
            arrays, problem = self._read(step)
            if problem is None:
                state = serialization.place(target, arrays, self._where(step))
                self._set_aside(bad, "bad")
                return state, step
            self._report(f"checkpoint {step} is passed over: {problem}")
            bad.append(step)
        went_back = any(self.directory.glob("diverged/*"))  # to the first step
        if bad or (any(self.directory.glob("bad/*")) and not went_back):
            raise ConfigError(
                f"{self.directory}: no checkpoint is good, and none is overwritten;"
                " use another workdir, or move this folder away to start again"
            )
        return None

    def set_aside_from(self, step: int) -> None:
        """Moves checkpoints to `diverged/`: the newest regular one before stays."""
        self.wait()
        before = [s for s in self.steps() if s < step and self._is_regular(s)]
        newest = max(before, default=-1)
        self._set_aside([s for s in self.steps() if s > newest], "diverged")

    def restore_step(self, step: int, target: Any) -> Any:
        """The state at one step, placed as by `restore`.

        Raises:
          ConfigError: It does not exist, is damaged, or has other shapes.
        """
        self.wait()
        if step not in self.steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise ConfigError(f"{self._where(step)}: is not there; there are: {known}")
        arrays, problem = self._read(step)
        if problem is not None:
            raise ConfigError(f"{self._where(step)}: {problem}")
        return serialization.place(target, arrays, self._where(step))

    def memory(self, step: int) -> Any:
        """The `memory` saved with a checkpoint; None if version 0.1 saved it."""
        return self._meta.get(step, {}).get("memory")

    def steps(self) -> list[int]:
        """Steps of all checkpoints in ascending order, including one being written."""
        if self._read_only:  # by names: another process may be writing them, and one
            # damaged file of Orbax's own metadata would stop its manager
            return sorted(ocp.utils.checkpoint_steps(self.directory))
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Step with the lowest metric (the newest of equals), or None."""
        metas = [(step, self._meta.get(step, {})) for step in self.steps()]
        metrics = [(step, m.get("metrics", {}).get("metric")) for step, m in metas]
        ranked = [(metric, -step) for step, metric in metrics if type(metric) is float]
        return -min(ranked)[1] if ranked else None

    def _is_regular(self, step: int) -> bool:
        meta = self._meta.get(step, {})
        return bool(meta.get("regular", step % self._every == 0))

    def wait(self) -> None:
        """Waits until the last save is on disk; OSError if it failed."""
        self._or_not_written(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits, as `wait` does, and ends the writing threads."""
        self._or_not_written(self._manager.close)

    def _read(self, step: int) -> tuple[dict[str, np.ndarray], str | None]:
        folder = self.directory / str(step)
        bucket_copy.fetch(folder)
        return serialization.read(folder)

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory,
            options=self._options,
            item_handlers=serialization.handlers(),
        )

    def _where(self, step: int | None) -> str:
        return f"{self.directory}, checkpoint {step}"

    def _set_aside(self, steps: list[int], folder: str) -> None:
        if self._read_only or not steps:
            return
        aside = self.directory / folder
        self._manager.close()
        own_folder(self.directory, folder)
        for step in steps:
            before = len(list(aside.glob(f"{step}.*")))
            (self.directory / str(step)).rename(aside / f"{step}.{before}")
        self._manager = self._open()

    def _or_not_written(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:
            older = [p.name for p in self.directory.glob("*") if p.name.isdigit()]
            raise OSError(
                f"{self._where(self._writing)} was not written:"
                f" {serialization.first_line(error)}; older ones are untouched:"
                f" {', '.join(sorted(older, key=int)) or 'none'}"
            ) from error


@dataclasses.dataclass(frozen=True)
class _NewestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    newest: int
    is_regular: Callable[[int], bool]
    best: Callable[[], int | None]

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        del context
        steps = sorted(info.step for info in checkpoints)
        regular = [step for step in steps if self.is_regular(step)]
        kept = {*steps[-self.newest :], *regular[-self.newest :], self.best()}
        return [info.step in kept for info in checkpoints]
