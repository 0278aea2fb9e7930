"""Evaluation of a run: checkpoints to numbers, with their protocol."""

import functools
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from sagan.checkpoints.restore import SavedRun, config_digest, generator_digest
from sagan.checkpoints.workdir import changed_data, read_config
from sagan.config.schema import Config, ConfigError
from sagan.data.pipeline import Source, open_source, resolve
from sagan.evaluation import generated, image_sets, scoring
from sagan.evaluation import results as results_lib
from sagan.evaluation.baseline import Floor, floors
from sagan.evaluation.protocol import (
    Protocol,
    as_json,
    check,
    check_labels,
    evaluated_weights,
)
from sagan.evaluation.scoring import Function, Judge
from sagan.metrics.features import metric_name
from sagan.runtime.progress import bar
from sagan.state import GANState
from sagan.training.experiment import Experiment

Report = Callable[[str], None]


class Ready(NamedTuple):
    """A run whose states can be evaluated one after the other.

    Attributes:
      judge: the reals.
      fakes: the generator.
      floors: of the numbers, by name, and notes; computed at the first call.
      facts: what the card says of the protocol.
      notes: what a reader must know.
    """

    judge: Judge
    fakes: generated.Fakes
    floors: Callable[[], tuple[dict[str, Floor], list[str]]]
    facts: dict[str, Any]
    notes: list[str]


def evaluate_run(
    workdir: Path,
    protocol: Protocol,
    *,
    steps: str = "latest",
    again: bool = False,
    features: Function | None = None,
    report: Report = print,
) -> list[results_lib.Result]:
    """Evaluates checkpoints of a run; leaves eval/step_N/ and eval/metrics.png there.

    What an earlier call with the same protocol has evaluated is not evaluated again.

    Args:
      workdir: of the run, which may be going on.
      protocol: every choice.
      steps: "latest", "best", "all", or the step of a checkpoint.
      again: evaluate also what is evaluated already.
      features: in the place of protocol.features: see scoring.open_judge.
      report: takes the lines for the user.

    Raises:
      ConfigError: there is no such run or checkpoint, or it has no such number.
    """
    check(protocol)
    config = read_config(workdir)
    evaluated_weights(protocol, config)
    if config.data.classes is not None:
        check_labels(protocol, config.data.classes)
    saved = SavedRun(workdir, config)
    chosen = saved.steps(steps)
    ready = prepare(config, protocol, workdir, features=features)
    results = []
    for asked in chosen:
        try:
            newest_good = None if steps == "latest" else asked
            state, step = saved.load(newest_good)
        except ConfigError as error:
            if steps != "all":
                raise
            report(f"passed over: {error}")
            continue
        folder = workdir / "eval" / f"step_{step}"
        results.append(evaluate_state(ready, state, folder, again=again, report=report))
        report(f"\n{results[-1]['about']['what']}: {folder / results_lib.CARD}")
        report(results_lib.text(results_lib.table(results[-1])))
    if not results:
        raise ConfigError(f"{workdir}: no checkpoint is good")
    for note in results[-1]["notes"]:
        report(f"note: {note}")
    _plot(workdir / "eval", results[-1], report)
    return results


def _plot(folder: Path, newest: results_lib.Result, report: Report) -> None:
    """Draws what was evaluated of this run as the newest was, if there is a line."""

    def alike(result: results_lib.Result) -> bool:
        same = all(result[k] == newest[k] for k in ("protocol_sha256", "versions"))
        run = "config sha256"
        return same and result["about"][run] == newest["about"][run]

    everything = (
        results_lib.read(path) for path in folder.glob(f"*/{results_lib.RESULTS}")
    )
    results = [result for result in everything if result and alike(result)]
    if len(results) > 1:
        results_lib.plot(folder / results_lib.PLOT, results)
        report(f"over the steps: {folder / results_lib.PLOT}")


def prepare(
    config: Config,
    protocol: Protocol,
    workdir: Path | None = None,
    *,
    source: Source | None = None,
    features: Function | None = None,
) -> Ready:
    """Reads the reals and gets the feature network.

    Args:
      config: of the run.
      protocol: every choice.
      workdir: of the run, to see whether these are the classes that it was trained on.
      source: The training images, if they are open already.
      features: in the place of protocol.features: see scoring.open_judge.

    Raises:
      ConfigError: the data or the features cannot be had, or allow no such metric.
    """
    check(protocol)
    trained_on = open_source(config) if source is None else source
    config = resolve(config, trained_on)
    classes = config.data.classes or 0
    check_labels(protocol, classes)
    names = trained_on.class_names
    notes = changed_data(workdir, len(trained_on), names) if workdir else []
    split = protocol.split or config.data.split
    source = trained_on
    if split != config.data.split:
        source = open_source(config, split)
        if source.class_names != names:
            raise ConfigError(
                f"--split {split}: has the classes {', '.join(source.class_names)}; the"
                f" run was trained on {', '.join(names)}"
            )
    court = scoring.open_judge(
        protocol,
        _reals(config, protocol, source, trained_on),
        labelled=classes > 0,
        features=features,
        progress=bar,
    )
    even = protocol.labels == "uniform" or not classes
    count = court.samples
    labels = generated.even_labels(count, classes)
    if not even:
        labels = np.resize(court.reals.label, count)
    facts = {
        "real split": f"{config.data.name}, {split}",
        **court.facts,
        "labels of the samples": protocol.labels if classes else "none",
        "truncation": protocol.truncation,
        "seeds": ", ".join(map(str, protocol.every_seed())),
        "batch of the generator": config.data.batch,
    }
    floor = functools.cache(lambda: floors(court, labels if classes else None))
    drawn = generated.open_fakes(config, protocol, labels, bar)
    return Ready(court, drawn, floor, facts, [*notes, *court.notes])


def _reals(
    config: Config, protocol: Protocol, source: Source, trained_on: Source
) -> scoring.Reals:
    examples = image_sets.of_source(source, protocol.reals, bar)
    training, test = image_sets.for_features(config, source, examples, trained_on, bar)
    return scoring.Reals(examples, training, test, config.data.classes or 0)


def evaluate_state(
    ready: Ready,
    state: GANState,
    folder: Path,
    *,
    again: bool = False,
    report: Report = print,
    what: str = "",
) -> results_lib.Result:
    """Evaluates one state with every kind of weights and batch statistics asked for.

    Writes what it has after each of them, and goes on from what is there. `what` is its
    name in the card; else it has the run's, whose eval/ the folder is in.
    """
    config, protocol, step = ready.fakes.config, ready.fakes.protocol, int(state.step)
    about = {
        "what": what or f"step {step} of {folder.parent.parent.name}",
        "step": step,
        "config sha256": config_digest(config),
        "generator sha256": generator_digest(state),
    }
    result = results_lib.new(ready.facts, about)
    result["asked"] = as_json(protocol)
    weights = evaluated_weights(protocol, config)
    asked = list(product(weights.items(), ready.fakes.samplers))
    before = results_lib.read_same(folder, result)
    if before and ready.judge.network.key:  # else these may be other features
        result["notes"] = before["notes"]
        redone = {(name, mode) for (name, _), mode in asked} if again else set()
        result["results"] = [
            row
            for row in before["results"]
            if (row["weights"], row["batch_norm"]) not in redone
        ]
    done = {(row["weights"], row["batch_norm"]) for row in result["results"]}
    for (name, average), mode in asked:
        if (name, mode) in done:
            continue
        values, notes = _over_seeds(ready, state, average, mode)
        floor, without = ready.floors()
        variant = {"weights": name, "batch_norm": mode}
        results_lib.add(result, variant, values, floor, ready.judge.samples)
        told = [*ready.notes, *without, generated.MODES[mode], *notes]
        result["notes"] = list(dict.fromkeys([*result["notes"], *told]))
        result["results"].sort(key=_place)
        results_lib.write(folder, result)
        report(f"step {step}, {name} weights, {mode} statistics: done")
    results_lib.write(folder, result)  # as the latest, where all was there
    return result


def _over_seeds(
    ready: Ready, state: GANState, average: int | None, mode: str
) -> tuple[dict[str, list[float]], list[str]]:
    """Every number of every seed that all of them have, and what must be known."""
    measured = [
        scoring.measure(
            ready.judge, generated.draw(ready.fakes, state, average, mode, seed)
        )
        for seed in ready.fakes.protocol.every_seed()
    ]
    names = [k for k in measured[0].values if all(k in m.values for m in measured)]
    notes = [note for m in measured for note in m.notes]
    return {k: [m.values[k] for m in measured] for k in names}, notes


def _place(row: dict[str, Any]) -> tuple[bool, int]:
    """Raw weights first, then by mode; within these as they were computed."""
    return row["weights"] != "raw", list(generated.MODES).index(row["batch_norm"])


def while_training(
    workdir: Path, *, features: Function | None = None, report: Report = tqdm.write
) -> Any:
    """An `evaluate` for loop.train: at every run.evaluate_every-th step.

    Measures the averaged weights (the raw ones where there are none) with their running
    statistics, all that can be had but the classification accuracy score and
    FID-infinity, and leaves eval/step_N/ in the workdir. The Fréchet distance decides
    which checkpoint is best.
    """

    def start(experiment: Experiment) -> Callable[[GANState], dict[str, float]]:
        config, _, source = experiment
        protocol = Protocol(
            metrics="all,-cas,-fid_infinity",
            samples=config.run.evaluate_samples,
            weights="ema" if config.ema.decays else "raw",
            batch_norm="moving",
        )
        ready = prepare(config, protocol, source=source, features=features)

        def measure(state: GANState) -> dict[str, float]:
            if int(state.step) % config.run.evaluate_every:
                return {}
            folder = workdir / "eval" / f"step_{int(state.step)}"
            result = evaluate_state(ready, state, folder, report=report)
            rows = [row for row in result["results"] if "/" not in row["metric"]]
            values = {row["metric"]: row["value"] for row in rows}
            return {"metric": values[metric_name("fid", ready.judge.network)], **values}

        return measure

    return start
