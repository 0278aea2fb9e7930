"""Training: order and cadence. The only file that reads the clock."""

import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from sagan.checkpoints import workdir as workdir_lib
from sagan.checkpoints.manager import Checkpoints
from sagan.config.fields import replace
from sagan.config.schema import Config, ConfigError
from sagan.config.validation import check, check_batch
from sagan.data import pipeline
from sagan.runtime import devices, processes
from sagan.runtime.signals import Interrupt
from sagan.sampling import attention_maps
from sagan.sampling import sampler as sampler_lib
from sagan.sampling.grid import grid
from sagan.state import (
    GANState,
    abstract,
    count,
    create,
    generator_variables,
    make_game,
)
from sagan.training import monitor, parallel
from sagan.training.logger import Writer

Report = Callable[[str], None]
Measure = Callable[[GANState], Mapping[str, float]]
Evaluate = Callable[[Config], Measure]


class Started(NamedTuple):
    """A run that is ready for its next step; process 0 has its checkpoints."""

    config: Config
    source: pipeline.Source
    mapped: parallel.Mapped
    checkpoints: Checkpoints | None
    state: GANState
    step: int


def train(
    config: Config,
    workdir: str | Path,
    *,
    evaluate: Evaluate | None = None,
    report: Report = tqdm.write,
) -> GANState:
    """Trains until config.run.steps, or until SIGINT or SIGTERM; then saves.

    The same call goes on where an earlier one stopped: the state after step n is the
    same, bit for bit on one CPU, however often training was stopped before it. Several
    processes (see processes.py) all make this call; the first alone uses the workdir,
    reports and evaluates.

    Args:
      config: of the experiment.
      workdir: where config.json, checkpoints, metrics and pictures go.
      evaluate: called once before the first step; what it gives is called before each
        checkpoint, and its value `metric`, lower is better, decides which is the best.
      report: takes the lines for the user.

    Returns:
      The state that was saved last.

    Raises:
      ConfigError: the config, the data or the workdir is wrong.
      Diverged: a loss or gradient is not finite; the last good checkpoint stays. With
        run.on_divergence = "rollback": it was restored run.rollbacks times.
    """
    workdir = Path(workdir)
    main = processes.is_main()
    report = report if main else lambda line: None
    with workdir_lib.locked(workdir) if main else contextlib.nullcontext():
        run = start(config, workdir, report)
        measure = evaluate(run.config) if evaluate and main else None
        # closing waits for a checkpoint that is being written, whatever happened
        with (
            Interrupt(several=jax.process_count() > 1) as interrupt,
            contextlib.closing(run.checkpoints)
            if run.checkpoints
            else contextlib.nullcontext(),
        ):
            while True:
                watch = monitor.Watch(workdir, run.config, run.state, report, main)
                log = Writer(workdir, run.config, run.step, active=main, watch=watch)
                try:
                    with log as writer:
                        state, step = _steps(run, writer, interrupt, measure, report)
                    break
                except monitor.GoBack as error:
                    reason = error.with_traceback(None)  # it holds the state
                run = _go_back(run, watch, reason, report)
    processes.meet()
    report(_last_line(step, run.config, workdir))
    return state


def _last_line(step: int, config: Config, workdir: Path) -> str:
    command = shlex.join(["python", *sys.argv])
    if step >= config.run.steps:
        return f"done: step {step}; pictures are in {workdir / 'samples'}"
    if step:
        return f"stopped and saved at step {step}; this resumes:\n{command}"
    return f"stopped before the first step; this starts again:\n{command}"


def start(config: Config, workdir: Path, report: Report) -> Started:
    """Checks everything that can be wrong, cheapest first; creates or restores."""
    check(config)
    make_game(replace(config, {"data.classes": config.data.classes or 0}))
    check_batch(config, len(jax.devices()))
    main = processes.is_main()
    if main:
        config = workdir_lib.usable(workdir, config)
    config = processes.same_config(config)
    source = pipeline.open_source(config)
    for note in source.notes:
        report(note)
    config = pipeline.resolve(config, source)
    processes.same_data(len(source), source.class_names)
    checkpoints = None
    mapped = parallel.map_step(config)
    devices.connect()
    if main:
        for note in workdir_lib.claim(workdir, config, len(source), source.class_names):
            report(note)
        checkpoints = Checkpoints(workdir / "checkpoints", config.run.keep, report)
    state = _newest(config, checkpoints)
    step = int(state.step)
    state = mapped.place_state(state)
    if step:
        report(f"resuming from step {step}")
    if step > config.run.steps:
        report(f"run.steps = {config.run.steps}: the run is already at step {step}")
    kinds = sorted({device.device_kind for device in jax.devices()})
    report(
        f"{len(jax.devices())} x {', '.join(kinds)} by {config.run.parallel};"
        f" {len(source)} images of {config.data.classes} classes;"
        f" parameters: {count(state.g.params):,} in G, {count(state.d.params):,} in D;"
        f" files: {workdir}"
    )
    return Started(config, source, mapped, checkpoints, state, step)


def _go_back(
    run: Started, watch: monitor.Watch, reason: monitor.GoBack, report: Report
) -> Started:
    """The run at the newest checkpoint from before a finding, with D's rate lowered."""
    # The first step that shows it began at a state that has it: from there the same
    # latents and images would lead to it again.
    if run.checkpoints is not None:
        run.checkpoints.set_aside_from(reason.finding.since - 1)
    times = watch.rollbacks + 1
    state = _newest(run.config, run.checkpoints)
    state = dataclasses.replace(state, rollbacks=np.array(times, np.int32))
    step = int(state.step)
    rate = run.config.run.rollback_factor**times
    said = f"back to step {step}, with {rate:g} of optim.d_lr"
    watch.record(reason.step, monitor.Finding("rollback", step, said))
    report(f"step {reason.step}: {reason.finding.message}; {said}")
    return run._replace(state=run.mapped.place_state(state), step=step)


def _newest(config: Config, checkpoints: Checkpoints | None) -> GANState:
    """The state of the newest good checkpoint of process 0, or the first one."""
    target = abstract(config)
    if checkpoints is None:  # only the shapes count: the values come from process 0
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), target)
        return processes.from_main(zeros)
    restored = checkpoints.restore(target)
    return processes.from_main(restored[0] if restored else create(config))


def _steps(
    run: Started,
    writer: Writer,
    interrupt: Interrupt,
    measure: Measure | None,
    report: Report,
) -> tuple[GANState, int]:
    config, mapped, state, step = run.config, run.mapped, run.state, run.step
    if step >= config.run.steps:
        return state, step
    draw, looks = _pictures(config, writer), _looks(config, run.source)
    if step == 0:
        draw(state, step)

    def save() -> None:
        writer.flush()  # raises where the state is not worth keeping
        if run.checkpoints is not None:
            metrics = measure(devices.local(state)) if measure else {}
            writer.scalars(step, {f"eval/{k}": v for k, v in metrics.items()})
            run.checkpoints.save(step, devices.local(state), metrics)

    batches = pipeline.batches(config, run.source, step, *processes.place())
    bar = tqdm(total=config.run.steps, initial=step, disable=None, unit="step")
    clock = _Clock()
    saved = step
    with contextlib.closing(batches), contextlib.closing(bar):
        try:
            while step < config.run.steps and not interrupt.agreed:
                # while the devices work
                batch = mapped.place_batch(next(batches), interrupt.requested)
                state, metrics = mapped.step(state, batch)
                step += 1
                if clock.step is None:
                    jax.block_until_ready(state)
                    seconds = clock.lap(step)
                    report(f"first step: {seconds:.0f} s, compiling included")
                rates = _rates(clock, config, step)
                stop = metrics.pop("stop", 0.0)
                writer.write(step, metrics, rates, looks(state, step))
                interrupt.hear(stop)
                _tell(bar, writer, step, rates, report)
                if step % config.run.sample_every == 0 or step == config.run.steps:
                    writer.flush()
                    draw(state, step)
                if step % config.run.checkpoint_every == 0:
                    save()
                    saved = step
        except ConfigError:  # an image that broke since the check
            if saved < step:
                save()
            raise
        if saved < step:
            save()
    return state, step


def _pictures(config: Config, writer: Writer) -> Callable[[GANState, int], None]:
    """Draws grids of fixed latents, a row for each class: raw and averaged weights."""
    if not processes.is_main():
        return lambda state, step: None
    sampler = sampler_lib.make_sampler(config)
    z, y, columns = sampler_lib.fixed_inputs(config)

    def draw(state: GANState, step: int) -> None:
        averages = {"raw": None} | ({"ema": 0} if state.ema else {})
        for name, average in averages.items():
            variables = generator_variables(devices.local(state), average)
            images = sampler(variables, z, y)
            writer.image(step, name, grid(np.asarray(images), columns))

    return draw


def _looks(
    config: Config, source: pipeline.Source
) -> Callable[..., dict[str, jax.Array]]:
    """What is looked at now and then: by the doctor, and what attention does."""
    history = (
        attention_maps.make_history(config, source) if processes.is_main() else None
    )

    def look(state: GANState, step: int) -> dict[str, jax.Array]:
        values = monitor.look(config, step, state)
        if history and step % config.run.sample_every == 0:
            values = values | history(devices.local(state))
        return values

    return look


class _Clock:
    """Seconds between laps, and the step of the last one."""

    def __init__(self) -> None:
        self.step: int | None = None
        self._time = time.perf_counter()

    def lap(self, step: int) -> float:
        now = time.perf_counter()
        seconds, self._time, self.step = now - self._time, now, step
        return seconds


def _rates(clock: _Clock, config: Config, step: int) -> dict[str, float]:
    """Real images a second since the last logged step, at a logged step."""
    if step % config.run.log_every or clock.step is None or clock.step == step:
        return {}
    images = (step - clock.step) * config.optim.d_steps * config.data.batch
    return {"images_per_s": images / clock.lap(step)}


def _tell(
    bar: tqdm, writer: Writer, step: int, rates: dict[str, float], report: Report
) -> None:
    """Moves the bar; where there is no terminal, a line at every logged step."""
    if bar.disable and rates:
        writer.flush()  # else the losses are those of the step before
    told = {k: f"{v:.3f}" for k, v in writer.latest.items() if k.endswith("loss")}
    told |= {name: f"{value:.0f}" for name, value in rates.items()}
    bar.set_postfix(told, refresh=False)
    bar.update()
    if bar.disable and rates:
        values = ", ".join(f"{name} {value}" for name, value in told.items())
        report(f"step {step} of {bar.total}: {values}")
