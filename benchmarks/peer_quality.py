"""Trains the PyTorch peer beside ours: is the quality equal, and which is faster?

python benchmarks/peer_quality.py [--seeds 0 1 2] [--steps 1500] [--workdir runs/peer]

Both sides have the same networks, recipe and batches of Fashion-MNIST. Weights and
latents are drawn by each framework itself, so runs of equal seeds are independent. The
sides take turns of 250 steps in one process with the same number of threads: a machine
that slows down for a while slows both. After each turn 5,000 samples of the averaged
weights, from the same latents and labels, are compared with the test split by one
classifier. Times are those of the steps alone: without compiling, reading the data,
evaluating and saving. The table has them at the median speed, as a turn may be slow
because the machine did something else.

The same command continues where it was stopped; at most one turn is repeated.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# torch's threads would spin while XLA's work: see step.py
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import grid  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from sagan import config as config_lib  # noqa: E402
from sagan.checkpoints.workdir import locked  # noqa: E402
from sagan.data import pipeline  # noqa: E402
from sagan.data.source import Examples, Source  # noqa: E402
from sagan.evaluation import generated, run, scoring  # noqa: E402
from sagan.runtime import files  # noqa: E402
from sagan.sampling import sampler  # noqa: E402
from sagan.state import count, create_state  # noqa: E402
from sagan.training.start import start  # noqa: E402

TURN = 250  # steps
SAMPLES = 5000
SEED = 0  # of the samples' latents
ACCURACY = "accuracy_classifier"
TURNS = "turns.jsonl"  # file in the folder of a run

Row = dict[str, Any]
Rows = dict[str, list[list[Row]]]  # by side: for each seed, the turns


def import_peer() -> Any:
    """The module torch_peer, or one line about what is missing."""
    try:
        import torch_peer
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise SystemExit("no PyTorch here: python -m pip install torch") from None
    return torch_peer


class Sagan:
    """Ours: the state and the step that train.py would have."""

    def __init__(self, config: config_lib.Config, workdir: Path):
        begun = start(config, workdir, lambda line: None)
        self._mapped, self._checkpoints = begun.mapped, begun.checkpoints
        self.state, self.step = begun.state, begun.step
        self.parameters = count(self.state.g.params), count(self.state.d.params)
        game = begun.experiment.game
        (batch,) = read(config, begun.experiment.source, 0, 1)
        thrown_away = self._mapped.place_state(create_state(game))  # to compile
        jax.block_until_ready(
            self._mapped.step(thrown_away, self._mapped.place_batch(batch))
        )

    def train(self, batches: list[pipeline.Batch]) -> None:
        for batch in batches:
            placed = self._mapped.place_batch(batch)
            self.state, _ = self._mapped.step(self.state, placed)
        jax.block_until_ready(self.state)
        self.step += len(batches)

    def draw(self, samples: generated.GeneratedSamples) -> Iterator[Examples]:
        yield from generated.draw_samples(samples, self.state, 0, "moving", SEED)

    def save(self) -> None:
        self._checkpoints.save(self.step, self.state)
        self._checkpoints.wait()


class Torch:
    """The peer in the fastest of its forms at this size."""

    def __init__(self, config: config_lib.Config, workdir: Path):
        peer, self._path = import_peer(), workdir / "checkpoint.pt"
        options = peer.Options(channels_last=True, concat=True)
        source = pipeline.open_source(config)
        config = pipeline.resolve(config, source)
        (batch,) = read(config, source, 0, 1)
        thrown_away = peer.Trainer(config, options)  # as ours: its first step is slow
        thrown_away.step_on(batch.image[0], batch.label[0])
        self._trainer = peer.Trainer(config, options, config.run.seed)
        if self._path.exists():
            self._trainer.load(self._path)
        self.parameters = self._trainer.counts()

    @property
    def step(self) -> int:
        return self._trainer.steps

    def train(self, batches: list[pipeline.Batch]) -> None:
        for batch in batches:
            self._trainer.step_on(batch.image[0], batch.label[0])

    def draw(self, samples: generated.GeneratedSamples) -> Iterator[Examples]:
        for begin in range(0, len(samples.labels), 500):
            y = samples.labels[begin : begin + 500]
            numbers = begin + np.arange(len(y))
            z = np.asarray(sampler.latents(samples.config, SEED, numbers))
            yield Examples(self._trainer.draw(z, y), y)

    def save(self) -> None:
        self._trainer.save(self._path)


# each has its number of steps done, its numbers of parameters, and these three methods
SIDES: dict[str, type[Any]] = {"sagan": Sagan, "torch": Torch}


def make_config(seed: int, steps: int, width: int) -> config_lib.Config:
    """The recipe of both sides."""
    run = {"run.seed": seed, "run.steps": steps}
    return grid.make_config({**run, "g.width": width, "d.width": width})


def read(
    config: config_lib.Config, source: Source, step: int, steps: int
) -> list[pipeline.Batch]:
    """The batches of some steps."""
    with contextlib.closing(pipeline.batches(config, source, step)) as batches:
        return list(itertools.islice(batches, steps))


def train(
    config: config_lib.Config, folder: Path, ready: run.PreparedEvaluation, turn: int
) -> dict[str, list[Row]]:
    """Trains both sides in turn, as far as they are not trained yet.

    Returns:
      The turns of each side, which are also in its folder.
    """
    steps, sides, setup = config.run.steps, {}, {}
    workdirs = {name: folder / f"{name}-{config.run.seed}" for name in SIDES}
    for name, workdir in workdirs.items():
        if len(read_rows(workdir, steps)) == -(-steps // turn):
            continue
        workdir.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        sides[name] = SIDES[name](config, workdir)
        setup[name] = time.perf_counter() - begin
        files.drop_lines_after(workdir / TURNS, sides[name].step)
    check_parameters(sides)
    source = pipeline.open_source(config)
    for number, goal in enumerate(range(turn, steps + turn, turn)):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            side = sides[name]
            if side.step < min(goal, steps):
                batches = read(config, source, side.step, min(goal, steps) - side.step)
                row = take_turn(side, batches, ready) | {"setup": setup[name]}
                # before the checkpoint: without it the turn is repeated
                with (workdirs[name] / TURNS).open("a") as file:
                    print(json.dumps(row), file=file)
                side.save()
                print(f"{workdirs[name].name}: {json.dumps(row)}", flush=True)
    return {name: read_rows(workdir, steps) for name, workdir in workdirs.items()}


def check_parameters(sides: dict[str, Any]) -> None:
    """Raises SystemExit if the sides have other numbers of parameters in G or D."""
    numbers = {name: side.parameters for name, side in sides.items()}
    if len(set(numbers.values())) > 1:
        raise SystemExit(f"the numbers of parameters of G and D differ: {numbers}")


def take_turn(
    side: Any, batches: list[pipeline.Batch], ready: run.PreparedEvaluation
) -> Row:
    """Trains and evaluates; the seconds of both, and the scores."""
    clocks = time.perf_counter(), time.process_time()
    side.train(batches)
    seconds, cpu = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
    begin = time.perf_counter()
    scores = scoring.score(ready.scorer, side.draw(ready.samples)).values
    return {
        "step": side.step,
        "steps": len(batches),
        "seconds": seconds,
        "cpu": cpu,
        "evaluation": time.perf_counter() - begin,
        "load": os.getloadavg()[0],
        **scores,
    }


def read_rows(workdir: Path, steps: int) -> list[Row]:
    """The stored turns up to a step."""
    path = workdir / TURNS
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if row["step"] <= steps]


def values(rows: Rows, side: str, key: str) -> np.ndarray:
    """A value of every turn [seeds turns]."""
    return np.array([[row[key] for row in turns] for turns in rows[side]])


def elapsed(rows: Rows, side: str) -> np.ndarray:
    """Seconds of training until the end of every turn, at the median speed."""
    return values(rows, side, "step") * np.median(per_step(rows, side, "seconds"))


def per_step(rows: Rows, side: str, key: str) -> np.ndarray:
    """Seconds of a step in every turn [seeds turns]."""
    return values(rows, side, key) / values(rows, side, "steps")


def report(rows: Rows, baseline: float) -> Iterator[str]:
    """Yields the lines of the table and what follows from it."""
    spread = {name: deviation(values(rows, name, grid.DISTANCE)) for name in SIDES}
    means = {name: values(rows, name, grid.DISTANCE).mean(axis=0) for name in SIDES}
    times = {name: elapsed(rows, name).mean(axis=0) for name in SIDES}
    yield f"{'step':>5}" + "".join(
        f" {name + what:>18}" for what in (": distance", ": seconds") for name in SIDES
    )
    for i, row in enumerate(rows["sagan"][0]):
        cells = [f"{means[name][i]:.2f} ± {spread[name][i]:.2f}" for name in SIDES]
        cells += [f"{times[name][i]:.0f}" for name in SIDES]
        yield f"{row['step']:5}" + "".join(f" {cell:>18}" for cell in cells)
    yield f"between two sets of real images: {baseline:.2f}"
    ours, theirs = (values(rows, name, grid.DISTANCE)[:, -1] for name in SIDES)
    if (seeds := len(ours)) > 1:
        error = np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / seeds)
        yield (
            f"sagan - torch at the last step: {ours.mean() - theirs.mean():.2f},"
            f" with a standard error of {error:.2f} over {seeds} seeds each"
        )
    goal = max(means[name][-1] for name in SIDES)
    to_goal = [first_below(goal, means[name], times[name]) for name in SIDES]
    yield (
        f"seconds to a mean distance of {goal:.2f}: {to_goal[0]:.0f} and"
        f" {to_goal[1]:.0f}, ratio {to_goal[0] / to_goal[1]:.2f}"
    )
    yield from speeds(rows)
    for name in SIDES:
        accuracy = values(rows, name, ACCURACY)[:, -1]
        setup = values(rows, name, "setup")[:, 0].mean()
        evaluation = values(rows, name, "evaluation").mean()
        yield (
            f"{name}: samples classified as their label at the last step"
            f" {', '.join(f'{share:.1%}' for share in accuracy)}; to start, compile and"
            f" make a step {setup:.0f} s; an evaluation {evaluation:.0f} s"
        )


def speeds(rows: Rows) -> Iterator[str]:
    """Yields a line on the time of a step, wall and CPU, each side and ratio."""
    for key, text in (("seconds", "time"), ("cpu", "CPU time")):
        ours, theirs = (per_step(rows, name, key) for name in SIDES)
        low, middle, high = np.quantile(ours / theirs, [0.25, 0.5, 0.75])
        yield (
            f"{text} of a step: {np.median(ours):.3f} s and {np.median(theirs):.3f} s,"
            f" medians of {ours.size} turns; ratio in a turn {middle:.2f}"
            f" [{low:.2f}, {high:.2f}]"
        )


def deviation(seeds: np.ndarray) -> np.ndarray:
    """The standard deviation over the first axis; 0 for a single seed."""
    return seeds.std(axis=0, ddof=1) if len(seeds) > 1 else np.zeros(seeds.shape[1:])


def first_below(goal: float, distances: np.ndarray, seconds: np.ndarray) -> float:
    """The seconds at which the curve first reaches the goal, between its points."""
    i = int(np.argmax(distances <= goal))
    if i == 0:
        return float(seconds[0])
    return float(np.interp(-goal, -distances[i - 1 : i + 1], seconds[i - 1 : i + 1]))


def draw(path: Path, rows: Rows, baseline: float) -> None:
    """Draws the distance over steps and over seconds of training."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    labels = {"sagan": "ours (JAX)", "torch": "the peer (PyTorch)"}
    for (name, label), colour in zip(labels.items(), ("C0", "C1"), strict=True):
        distance = values(rows, name, grid.DISTANCE)
        for axis, x in zip(
            axes, (values(rows, name, "step"), elapsed(rows, name)), strict=True
        ):
            axis.plot(x.T, distance.T, color=colour, linewidth=0.6, alpha=0.6)
            mean = distance.mean(axis=0)
            axis.plot(x.mean(axis=0), mean, ".-", color=colour, label=label)
    for axis, what in zip(
        axes, ("steps", "seconds of training, at the median speed"), strict=True
    ):
        axis.axhline(baseline, color="grey", linestyle=":", label="real against real")
        axis.set(xlabel=what, yscale="log")
    axes[0].set_ylabel(grid.DISTANCE)
    axes[1].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def about(config: config_lib.Config) -> str:
    """The line on what was trained, and where."""
    versions = f"Python {platform.python_version()}, jax {jax.__version__}"
    torch = import_peer().torch.__version__
    return (
        f"{config.data.name}, {config.data.size} px, width {config.g.width}, batch"
        f" {config.data.batch}; {threads()} threads; {versions}, torch {torch}"
    )


def threads() -> int:
    """Number of threads of both sides: XLA takes one for each core that it may use."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--width", type=int, default=16, help="of both networks")
    parser.add_argument("--workdir", type=Path, default=Path("runs/peer"))
    parser.add_argument(
        "--out", type=Path, default=grid.RESULTS, help="folder of results"
    )
    known = parser.parse_args()
    import_peer().torch.set_num_threads(threads())
    configs = [make_config(seed, known.steps, known.width) for seed in known.seeds]
    with locked(known.workdir):
        ready = grid.prepare(configs[0], SAMPLES)
        runs = [train(config, known.workdir, ready, TURN) for config in configs]
    rows = {name: [run[name] for run in runs] for name in SIDES}
    baseline = ready.baselines()[0][grid.DISTANCE].value
    text = "\n".join([about(ready.samples.config), "", *report(rows, baseline)])
    print(text)
    files.make_folder(known.out)
    files.write_whole(known.out / "peer_quality.txt", text + "\n")
    draw(known.out / "peer_quality.png", rows, baseline)


if __name__ == "__main__":
    main()
