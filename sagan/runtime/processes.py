"""Several processes that train together: start, exchange, agreement."""

from __future__ import annotations

import json
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sagan.config.fields import differences, from_json, replace, to_json
from sagan.config.schema import Config, ConfigError
from sagan.runtime import exit_message

_OF_ONE_PROCESS = {"run.coordinator": "", "run.processes": None, "run.process": None}


def initialize(config: Config, restart_hint: str) -> Config:
    """Connects to the other processes, if any; must come before other uses of JAX.

    The fields run.coordinator, run.processes and run.process say who they are; without
    these, SLURM's or Cloud TPU's environment does. If one of them never comes, or dies
    later, JAX aborts the others: see exit_message.py.

    Args:
      config: The config of this process.
      restart_hint: One line about what to do after a process died.

    Returns:
      The config without the fields that differ between processes.
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
    exit_message.arm(
        [
            f"error: the processes did not all meet within {run.startup_timeout} s"
            " (run.startup_timeout): start all of them, and see that each reaches"
            f" the coordinator, {run.coordinator or 'the first of them'}",
            "error: this process was ended, most likely because another one died or was"
            f" out of reach; {restart_hint}",
        ]
    )
    try:
        jax.distributed.initialize(**options)
    except ValueError as error:
        exit_message.disarm()
        if run.coordinator or "SLURM_JOB_ID" in os.environ:
            raise ConfigError(f"the processes cannot meet: {error}") from error
        return config  # a TPU host on its own
    # both connect at their first call, so now, while nobody is late: devices.connect
    barrier()
    broadcast(np.zeros(()))
    exit_message.select(1)
    return replace(config, _OF_ONE_PROCESS)


def _started_by_cluster() -> bool:
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in os.environ for name in slurm):
        return int(os.environ.get("SLURM_NTASKS", "1")) > 1
    # JAX sets this itself where libtpu and TPU chips are present
    settings: Any = jax.config
    return "tpu" in (settings.jax_platforms or "")


def is_main() -> bool:
    """Whether this is process 0, the only one that writes and reports."""
    return jax.process_index() == 0


def index_and_count() -> tuple[int, int]:
    """Index of this process, and number of processes."""
    return jax.process_index(), jax.process_count()


def broadcast(tree: Any) -> Any:
    """The arrays that process 0 passes; the others pass arrays of the same shapes."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


def barrier() -> None:
    """Waits until every process has called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("sagan:barrier")


def _broadcast_text(text: str) -> str:
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(broadcast(np.array(len(data))))
    padded = np.zeros(length, np.uint8)
    padded[: len(data)] = data[:length]
    return bytes(broadcast(padded)).decode()


def broadcast_json(value: Any) -> Any:
    """The JSON value that process 0 passes."""
    if jax.process_count() == 1:
        return value
    return json.loads(_broadcast_text(json.dumps(value)))


def shared_config(config: Config) -> Config:
    """The config of process 0, with this process's data.path.

    Raises:
      ConfigError: This process was started with another config.
    """
    theirs = from_json(_broadcast_text(to_json(config)))
    theirs = replace(theirs, {"data.path": config.data.path})
    odd = {
        name: values
        for name, values in differences(theirs, config).items()
        # process 0 may know it from the run in the workdir
        if not (name == "data.classes" and config.data.classes is None)
        and name not in ("run.init_from", "run.init_digest")  # it alone reads these
    }
    if odd:
        lines = [f"{name}: {a} there, {b} here" for name, (a, b) in odd.items()]
        raise ConfigError(
            "\n  ".join(["process 0 was started with another config:", *lines])
        )
    return theirs


def check_same_data(images: int, class_names: tuple[str, ...]) -> None:
    """Raises a ConfigError unless process 0 has as many images and the same classes."""
    mine = f"{images} images of the classes {list(class_names)}"
    theirs = _broadcast_text(mine)
    if mine != theirs:
        raise ConfigError(
            f"the data differ from those of process 0: {mine} here, {theirs} there"
        )
