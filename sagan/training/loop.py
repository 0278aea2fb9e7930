"""Training: order and cadence."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from sagan.checkpoints import workdir as workdir_lib
from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.mirror import mirrored
from sagan.config.schema import Config, ConfigError
from sagan.data import pipeline
from sagan.runtime import devices, processes
from sagan.runtime.progress import Report
from sagan.runtime.signals import Interrupt, same_command
from sagan.sampling import attention_maps
from sagan.sampling.grid import class_titles, image_grid
from sagan.sampling.sampler import fixed_inputs, make_sampler
from sagan.state import GANState, generator_variables
from sagan.training.experiment import Experiment
from sagan.training.feedback import Feedback, Rollback
from sagan.training.logger import Logger
from sagan.training.monitor import Monitor, measure_sigma
from sagan.training.profiling import Profiler
from sagan.training.progress import Progress
from sagan.training.start import Started, roll_back, start
from sagan.training.timing import Clocks

Measure = Callable[[GANState], Mapping[str, float]]
Evaluate = Callable[[Experiment], Measure]


def train(
    config: Config,
    workdir: str | Path,
    *,
    evaluate: Evaluate | None = None,
    report: Report = tqdm.write,
) -> GANState:
    """Trains until config.run.steps, or until SIGINT, SIGTERM or SIGHUP; then saves.

    The same call resumes a run that was stopped: the state after step n is the same,
    bit for bit on one CPU, however often training was stopped before it. With several
    processes (see runtime/processes.py) all of them make this call; only the first uses
    the workdir and reports.

    Args:
      config: The experiment.
      workdir: Directory of config.json, checkpoints, metrics and pictures. If it is
        gs://BUCKET/PATH, a local folder is mirrored there.
      evaluate: Called once before the first step. The function that it returns is
        called before each checkpoint, in all processes; its value `metric` in the first
        process, lower is better, decides which checkpoint is the best.
      report: Takes the lines for the user.

    Returns:
      The state that was saved last.

    Raises:
      ConfigError: The config, the data or the workdir is wrong.
      Diverged: A loss or gradient is not finite; the last good checkpoint stays. With
        run.on_divergence = "rollback": it was restored run.rollbacks times.
      OSError: A file could not be written, or not all of them are in the bucket.
      Stopped: A signal came before there was anything to save.
    """
    main = processes.is_main()
    report = report if main else lambda line: None
    with (
        Interrupt(several=jax.process_count() > 1) as interrupt,
        mirrored(workdir, config, interrupt.request, report, active=main) as folder,
        workdir_lib.locked(folder) if main else contextlib.nullcontext(),
        contextlib.ExitStack() as stack,
    ):
        run = start(config, folder, report)
        if run.checkpoints:  # waits for one that is being written, whatever happened
            stack.enter_context(contextlib.closing(run.checkpoints))
        config = run.experiment.config
        measure = evaluate(run.experiment) if evaluate else None
        interrupt.preparing = False
        while True:
            monitor = Monitor(folder, config, run.state, run.memory, active=main)
            end = _train_from(run, folder, monitor, interrupt, measure, report)
            if not isinstance(end, Rollback):
                break
            run = roll_back(run, monitor, end, report)
    processes.barrier()
    report(_last_line(end[1], config, workdir))
    return end[0]


def _last_line(step: int, config: Config, workdir: str | Path) -> str:
    command = same_command()
    if step >= config.run.steps:
        return f"done: step {step}; pictures are in {workdir}/samples"
    if step:
        return f"stopped and saved at step {step}; this resumes:\n{command}"
    return f"stopped before the first step; this starts again:\n{command}"


def _train_from(
    run: Started,
    folder: Path,
    monitor: Monitor,
    interrupt: Interrupt,
    measure: Measure | None,
    report: Report,
) -> tuple[GANState, int] | Rollback:
    """`_steps`, with what it needs to be open."""
    config, main = run.experiment.config, processes.is_main()
    profiler = Profiler(folder, config, run.step, report, active=main)
    with (
        Logger(folder, config, run.step, active=main) as logger,
        contextlib.closing(profiler),
    ):
        for note in filter(None, (monitor.note, logger.note)):
            report(note)
        clocks = Clocks(config, logger.last)
        watch = _Watch(interrupt, clocks, profiler)
        end = _steps(
            run, Feedback(monitor, logger, report), logger, watch, measure, report
        )
    if summary := clocks.summary():
        report(summary)
    return end


class _Watch(NamedTuple):
    """The observers of every step."""

    interrupt: Interrupt
    clocks: Clocks
    profiler: Profiler


def _steps(
    run: Started,
    feedback: Feedback,
    logger: Logger,
    watch: _Watch,
    measure: Measure | None,
    report: Report,
) -> tuple[GANState, int] | Rollback:
    """Trains from a state to the end of the run, a signal, or a reason to go back."""
    experiment, mapped, checkpoints, state, step, _ = run
    interrupt, clocks, profiler = watch
    save = _saver(checkpoints, feedback, logger, clocks, measure)
    config, source = experiment.config, experiment.source
    if step >= config.run.steps:
        return state, step
    draw = _pictures(config, source, logger)
    measure_slowly = _slow_scalars(config, source)
    if step == 0:
        draw(state, step)

    batches = pipeline.batches(config, source, step, *processes.index_and_count())
    progress = Progress(config, step, feedback, clocks, report)
    epochs = config.optim.d_steps * config.data.batch / len(source)  # a step, for D
    saved, running = step, None
    with contextlib.closing(batches), contextlib.closing(progress):
        try:
            while step < config.run.steps and not interrupt.agreed:
                with clocks.spent("other"):
                    profiler.at(step, state)
                batch = clocks.next_batch(batches, running)  # while the devices work
                batch = mapped.place_batch(batch, interrupt.requested)
                state, scalars = mapped.step(state, batch)
                step, running = step + 1, scalars["d_loss"]
                rates = progress.rates(step, state)
                stop = scalars.pop("stop", 0.0)
                slow = measure_slowly(state, step)
                logged = bool(slow) or step % config.run.log_every == 0
                values = {**scalars, **slow, **rates, "epoch": step * epochs}
                rollback = feedback.put(step, values, logged=logged)
                interrupt.observe(stop)
                rollback = rollback or progress.show(step, rates)
                if step % config.run.sample_every == 0 or step == config.run.steps:
                    rollback = rollback or feedback.flush()
                    if rollback is None:
                        with clocks.spent("other"):
                            draw(state, step)
                if rollback is None and step % config.run.checkpoint_every == 0:
                    rollback, saved = save(state, step), step
                if rollback is not None:
                    return rollback
        except ConfigError:  # an image that broke since the check
            if saved < step:
                save(state, step)
            raise
        rollback = save(state, step) if saved < step else None
    return rollback or (state, step)


def _saver(
    checkpoints: Checkpoints | None,
    feedback: Feedback,
    logger: Logger,
    clocks: Clocks,
    measure: Measure | None,
) -> Callable[[GANState, int], Rollback | None]:
    """Evaluates and saves a state, unless there is a reason to go back."""

    def save(state: GANState, step: int) -> Rollback | None:
        rollback = feedback.flush()  # or raises: the state is not worth keeping
        if rollback is not None:
            return rollback
        with clocks.spent("other"):
            metrics = measure(devices.local(state)) if measure else {}
        if checkpoints is not None:
            logger.curves(step, {f"eval/{k}": v for k, v in metrics.items()})
            with clocks.spent("save"):
                checkpoints.save(step, devices.local(state), metrics, feedback.memory)
        return rollback

    return save


def _pictures(
    config: Config, source: pipeline.Source, logger: Logger
) -> Callable[[GANState, int], None]:
    """Draws grids of fixed latents, a row for each class: raw and averaged weights."""
    if not processes.is_main():
        return lambda state, step: None
    sampler = make_sampler(config)
    z, y = fixed_inputs(config)
    names = class_titles(config.data.classes, source.class_names)

    def draw(state: GANState, step: int) -> None:
        averages = {"raw": None} | ({"ema": 0} if state.ema else {})
        for name, average in averages.items():
            variables = generator_variables(devices.local(state), average)
            images = np.asarray(sampler(variables, z, y))
            logger.image(step, name, image_grid(images, np.asarray(y), names))

    return draw


def _slow_scalars(
    config: Config, source: pipeline.Source
) -> Callable[..., dict[str, jax.Array]]:
    """Measures now and then what is too slow for every step: sigmas, and attention."""
    attention = (
        attention_maps.make_statistics(config, source) if processes.is_main() else None
    )

    def measure(state: GANState, step: int) -> dict[str, jax.Array]:
        values = measure_sigma(config, step, state)
        if attention and step % config.run.sample_every == 0:
            values = values | attention(devices.local(state))
        return values

    return measure
