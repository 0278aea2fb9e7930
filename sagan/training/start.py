"""From a config and a workdir to a run that is ready for its next step."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sagan.checkpoints import workdir as workdir_lib
from sagan.checkpoints.manager import Checkpoints
from sagan.config.schema import Config
from sagan.config.validation import check_batch, check_config
from sagan.data.source import contents_digest
from sagan.runtime import devices, processes
from sagan.runtime.progress import Report
from sagan.state import (
    Game,
    GANState,
    abstract_state,
    after_rollbacks,
    check_names,
    count,
)
from sagan.training import parallel, warm_start
from sagan.training.divergence import Finding
from sagan.training.experiment import Experiment, open_experiment
from sagan.training.feedback import Rollback
from sagan.training.monitor import Monitor

FEW_IMAGES = 10_000  # a fifth of CIFAR-10, whose FID falls by a third: arXiv:2006.10738

_HANDFUL = 10


class Started(NamedTuple):
    """A run that is ready for its next step; process 0 has its checkpoints.

    `memory` is the monitor's as of the previous step.
    """

    experiment: Experiment
    mapped: parallel.Mapped
    checkpoints: Checkpoints | None
    state: GANState
    step: int
    memory: Any


def start(config: Config, workdir: Path, report: Report) -> Started:
    """Checks everything that can be wrong, cheapest first; creates or restores."""
    check_config(config)
    check_names(config)  # before the data, which may take minutes to check
    check_batch(config, len(jax.devices()))
    main, known = processes.is_main(), None
    if main:
        config = workdir_lib.check_workdir(workdir, config)
        if workdir_lib.has_checkpoint(workdir):
            known = workdir_lib.known_classes(workdir)
        else:
            config = warm_start.check_source(config, workdir)
    config = processes.shared_config(config)
    devices.connect()  # before the data, which may take minutes on one machine
    experiment = open_experiment(config, processes.broadcast_json(known))
    config, game, source = experiment
    for note in source.notes:
        report(note)
    processes.check_same_data(len(source), source.class_names)
    checkpoints = None
    if main:
        contents = len(source), source.class_names, contents_digest(source)
        for note in workdir_lib.claim(workdir, config, *contents):
            report(note)
        every = config.run.checkpoint_every
        checkpoints = Checkpoints(
            workdir / "checkpoints", config.run.keep, report, every=every
        )
    state, memory = _newest(game, checkpoints, report)
    step = int(state.step)
    mapped = parallel.map_step(after_rollbacks(game, int(state.rollbacks)))
    state = mapped.place_state(state)
    if step:
        report(f"resuming from step {step}")
    else:
        for line in _advice(config, len(source)):
            report(line)
    if step > config.run.steps:
        report(f"run.steps = {config.run.steps}: the run is already at step {step}")
    kinds = sorted({device.device_kind for device in jax.devices()})
    report(
        f"{len(jax.devices())} x {', '.join(kinds)} by {config.run.parallel};"
        f" {len(source)} images of {config.data.classes} classes;"
        f" parameters: {count(state.g.params):,} in G, {count(state.d.params):,} in D;"
        f" files: {workdir}"
    )
    return Started(experiment, mapped, checkpoints, state, step, memory)


def _advice(config: Config, images: int) -> Iterator[str]:
    """Names what helps with few images, and what freezes D at random weights."""
    reg, start = config.reg, config.run.init_from
    helped = config.augment.policy or reg.lecam or reg.consistency_real or reg.r1
    if images < _HANDFUL:
        yield f"only {images} images: enough to try the program, too few to train on"
    elif images < FEW_IMAGES and not (helped or reg.consistency_fake or start):
        yield (
            f"only {images:,} images: D may memorise them. Below {FEW_IMAGES:,},"
            " --augment.policy color,translation usually helps (docs/training.md)"
        )
    if config.d.freeze and not start:
        yield (
            f"d.freeze = {config.d.freeze} keeps random weights: without run.init_from"
            " there are no others"
        )


def roll_back(
    run: Started, monitor: Monitor, reason: Rollback, report: Report
) -> Started:
    """The run at the newest checkpoint from before a finding, with D's rate lowered."""
    game, finding = run.experiment.game, reason.finding
    # The state before the step that first shows the finding is set aside too: the same
    # latents and images would lead from there to the same finding.
    if run.checkpoints is not None:
        run.checkpoints.set_aside_from(finding.since - 1)
    times = monitor.rollbacks + 1
    state, memory = _newest(game, run.checkpoints, report)
    state = dataclasses.replace(state, rollbacks=np.array(times, np.int32))
    step = int(state.step)
    rate = game.config.run.rollback_factor**times
    line = f"back to step {step}, with {rate:g} of optim.d_lr"
    monitor.record(reason.step, Finding("rollback", step, line))
    report(f"step {reason.step}: {finding.message}; {line}")
    mapped = parallel.map_step(after_rollbacks(game, times))
    state = mapped.place_state(state)
    return run._replace(mapped=mapped, state=state, step=step, memory=memory)


def _newest(
    game: Game, checkpoints: Checkpoints | None, report: Report
) -> tuple[GANState, Any]:
    """State and memory of the newest good checkpoint of process 0, or the first."""
    target = abstract_state(game)
    if checkpoints is None:  # only the shapes count: the values come from process 0
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), target)
        memory = None
    elif restored := checkpoints.restore(target):
        state, step = restored
        memory = checkpoints.memory(step)
    else:
        state, memory = warm_start.first_state(game, report), None
    return processes.broadcast(state), processes.broadcast_json(memory)
