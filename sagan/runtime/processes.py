"""Several processes that train together: start, exchange, agreement."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sagan.config.fields import differences, from_json, replace, to_json
from sagan.config.schema import Config, ConfigError
from sagan.runtime import exit_message
from sagan.runtime.exchange import end_all, texts
from sagan.runtime.progress import Report

_BIND = "JAX_COORDINATOR_BIND_ADDRESS"  # overrides what we choose
_number: socket.socket | None = None  # held open: this process's own number
_OF_ONE_PROCESS = {"run.coordinator": "", "run.processes": None, "run.process": None}


def initialize(config: Config, restart_hint: str, report: Report = print) -> Config:
    """Connects to the other processes, if any; must come before other uses of JAX.

    The fields run.coordinator, run.processes and run.process say who they are; without
    these, SLURM's or Cloud TPU's environment does. If one of them never comes, or dies
    later, JAX aborts the others: see exit_message.py.

    Args:
      config: The config of this process.
      restart_hint: One line about what to do after a process died.
      report: Takes the lines for the user.

    Returns:
      The config without the fields that differ between processes.

    Raises:
      ConfigError: The port is in use, or another process has this one's number.
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
        _take_number(run.coordinator, run.process)
        if run.process == 0 and _BIND not in os.environ:
            bind_address = _bind_address(run.coordinator, report)
            options |= {"coordinator_bind_address": bind_address}
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


def _take_number(coordinator: str, process: int | None) -> None:
    """Refuses a second process of the same number: it would end the first one's run.

    The name of the socket exists on this machine only, until this process ends.
    """
    global _number
    _number = socket.socket(socket.AF_UNIX)
    try:
        _number.bind(f"\0sagan:{coordinator}:{process}")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return  # not Linux
        raise ConfigError(
            f"run.process = {process}: another process on this machine has this number"
            f" at run.coordinator = {coordinator!r}: give each its own"
        ) from error


def _bind_address(coordinator: str, report: Report) -> str:
    """Where process 0 listens: only at run.coordinator, if this machine has it."""
    host, _, port = coordinator.rpartition(":")
    host, said = host.strip("[]"), f"run.coordinator = {coordinator!r}: "
    ip, only_there = "", False
    try:
        ip = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        socket.create_server((ip, int(port)), family=family).close()
        # a name of this machine is often that of its loopback, for itself alone
        found = ipaddress.ip_address(ip)
        its_own = not found.is_loopback or host in ("localhost", ip)
        only_there = its_own and not found.is_unspecified
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            problem = f"port {port}: {os.strerror(error.errno)}"
            raise ConfigError(said + problem) from error
        if ip and _answers(ip, int(port)):
            raise ConfigError(
                f"{said}something listens there, and it is not this machine: if that"
                " is process 0, give this one another run.process; if it is a load"
                f" balancer, set {_BIND}"
            ) from error
    if only_there:
        return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    report(
        f"{said}not a single address of this machine, so process 0 listens on all of"
        f" its addresses, without authentication ({_BIND} may name one)"
    )
    return f"[::]:{port}"


def _answers(ip: str, port: int) -> bool:
    try:
        socket.create_connection((ip, port), timeout=2).close()
    except OSError:
        return False
    return True


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


def broadcast_json(value: Any) -> Any:
    """The JSON value that process 0 passes."""
    return json.loads(texts(json.dumps(value))[0])


def shared_config(config: Config) -> Config:
    """The config of process 0, with this process's data.path.

    Raises:
      ConfigError: Some process was started with another config; in all of them.
    """
    first, *others = map(from_json, texts(to_json(config)))
    for i, other in enumerate(others, start=1):
        odd = {
            name: values
            for name, values in differences(first, other).items()
            # process 0 may know it from the run in the workdir
            if not (name == "data.classes" and other.data.classes is None)
            # each has its own, or process 0 alone reads it
            and name not in ("data.path", "run.init_from", "run.init_digest")
        }
        lines = [
            f"{name}: {a} there, {b} in process {i}" for name, (a, b) in odd.items()
        ]
        if odd:
            said = f"process 0 was started with another config than process {i}:"
            end_all("\n  ".join([said, *lines]))
    return replace(first, {"data.path": config.data.path})


def check_same_data(images: int, class_names: tuple[str, ...]) -> None:
    """Raises a ConfigError in all processes unless they have the same data."""
    first, *others = texts(f"{images} images of the classes {list(class_names)}")
    for i, other in enumerate(others, start=1):
        if other != first:
            end_all(
                f"the data of process {i} differ from those of process 0: {other} in"
                f" process {i}, {first} there"
            )
