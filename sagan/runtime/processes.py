"""Several processes that train together: how they meet, agree and end."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sagan.config.fields import differences, from_json, replace, to_json
from sagan.config.schema import Config, ConfigError
from sagan.runtime import exit_message

_MACHINE = {"run.coordinator": "", "run.processes": None, "run.process": None}


def join(config: Config, restart: str) -> Config:
    """Meets the other processes, if there are any; before anything else asks JAX.

    They are those of run.coordinator; else those that SLURM or Cloud TPU started. If
    one dies later, or does not come, JAX aborts the others: see exit_message.py.

    Args:
      config: with the fields of this process.
      restart: what a user can do when a process died; one line.

    Returns:
      The config without what only this process has.
    """
    run = config.run
    options: dict[str, Any] = {
        "initialization_timeout": run.startup_timeout,
        "heartbeat_timeout_seconds": run.heartbeat_timeout,
        "shutdown_timeout_seconds": run.heartbeat_timeout,
    }
    if run.coordinator:
        options |= {"coordinator_address": run.coordinator, "process_id": run.process}
        options |= {"num_processes": run.processes}
        options |= {"cluster_detection_method": "deactivate"}
    elif not _started_by_cluster():
        return config
    # JAX's handler would keep SIGTERM from us, and take seconds to agree on a step
    jax.config.update("jax_enable_preemption_service", False)
    exit_message.watch(
        [
            f"error: the processes did not all meet within {run.startup_timeout} s"
            " (run.startup_timeout): start all of them, and see that each reaches"
            f" the coordinator, {run.coordinator or 'the first of them'}",
            "error: this process was ended, most likely because another one died or was"
            f" out of reach; {restart}",
        ]
    )
    try:
        jax.distributed.initialize(**options)
    except ValueError as error:
        exit_message.leave()
        if run.coordinator or "SLURM_JOB_ID" in os.environ:
            raise ConfigError(f"the processes cannot meet: {error}") from error
        return config  # a single TPU host, of which no cluster knows
    # now, while all are here: see devices.connect
    meet()
    from_main(np.zeros(()))
    exit_message.say_at_the_end(1)
    return replace(config, _MACHINE)


def _started_by_cluster() -> bool:
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in os.environ for name in slurm):
        return int(os.environ.get("SLURM_NTASKS", "1")) > 1
    # where libtpu and its chips are, JAX has set this itself
    settings: Any = jax.config
    return "tpu" in (settings.jax_platforms or "")


def is_main() -> bool:
    """Whether this is the process that writes and reports: the first, or the only."""
    return jax.process_index() == 0


def place() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    return jax.process_index(), jax.process_count()


def from_main(tree: Any) -> Any:
    """What process 0 passed, in all processes: a PyTree of arrays of known shapes."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


def meet() -> None:
    """Returns once every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("sagan:meet")


def text_from_main(text: str) -> str:
    """The text that process 0 passed, in all processes."""
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(from_main(np.array(len(data))))
    padded = np.zeros(length, np.uint8)
    padded[: len(data)] = data[:length]
    return bytes(from_main(padded)).decode()


def same_config(config: Config) -> Config:
    """The config of process 0, with this process's own place of the images.

    Raises:
      ConfigError: this process was started with another config.
    """
    theirs = from_json(text_from_main(to_json(config)))
    theirs = replace(theirs, {"data.path": config.data.path})
    odd = {
        name: values
        for name, values in differences(theirs, config).items()
        # that of process 0 is from the run that it found
        if not (name == "data.classes" and config.data.classes is None)
    }
    if odd:
        lines = [f"{name}: {a} there, {b} here" for name, (a, b) in odd.items()]
        raise ConfigError(
            "\n  ".join(["process 0 was started with another config:", *lines])
        )
    return theirs


def same_data(images: int, class_names: tuple[str, ...]) -> None:
    """Raises ConfigError if these are not the data that process 0 has."""
    mine = f"{images} images of the classes {list(class_names)}"
    theirs = text_from_main(mine)
    if mine != theirs:
        raise ConfigError(f"the data are not those of process 0: {mine}, not {theirs}")
