"""Evaluation: checkpoints, or images from anywhere, to numbers and their protocol."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sagan import card, imagesets, judge, sample
from sagan.card import bar
from sagan.config import fields
from sagan.data import open_source, resolve
from sagan.export import checkpoint_steps, load_state
from sagan.imagesets import ImageSet
from sagan.judge import Floor, Function, Judge
from sagan.metrics.features import metric_name
from sagan.protocol import Protocol, check, check_labels, evaluated_weights
from sagan.schema import MAY_CHANGE, Config, ConfigError
from sagan.source import Examples
from sagan.state import GANState, generator_variables
from sagan.workdir import read_config

Report = Callable[[str], None]
_CHUNK = 1024  # images that are generated before the feature network sees them


class Ready(NamedTuple):
    """A run whose checkpoints can be evaluated one after the other.

    Attributes:
      config: of the run, with its classes.
      protocol: of the evaluation.
      judge: the reals.
      floors: of the numbers, by name.
      facts: what the card says of the protocol.
      samplers: by batch-norm mode.
      standing: recomputes batch statistics.
    """

    config: Config
    protocol: Protocol
    judge: Judge
    floors: dict[str, Floor]
    facts: dict[str, Any]
    samplers: dict[str, sample.Sampler]
    standing: Callable[..., dict[str, Any]]


def evaluate_run(
    workdir: Path,
    protocol: Protocol,
    *,
    steps: str = "latest",
    again: bool = False,
    features: Function | None = None,
    report: Report = print,
) -> list[card.Result]:
    """Evaluates checkpoints of a run; leaves eval/step_N/ and eval/metrics.png there.

    What an earlier call with the same protocol has evaluated is not evaluated again.

    Args:
      workdir: of the run, which may be going on.
      protocol: every choice.
      steps: "latest", "best", "all", or the step of a checkpoint.
      again: evaluate also what is evaluated already.
      features: in the place of protocol.features: see judge.open_judge.
      report: takes the lines for the user.

    Raises:
      ConfigError: there is no such run or checkpoint, or it has no such number.
    """
    check(protocol)
    config = read_config(workdir)
    evaluated_weights(protocol, config)
    if config.data.classes is not None:
        check_labels(protocol, config.data.classes)
    chosen = checkpoint_steps(workdir, config, steps)
    ready = prepare(config, protocol, features=features)
    results = []
    for asked in chosen:
        try:
            newest_good = None if steps == "latest" else asked
            state, step = load_state(workdir, ready.config, newest_good)
        except ConfigError as error:
            if steps != "all":
                raise
            report(f"passed over: {error}")
            continue
        folder = workdir / "eval" / f"step_{step}"
        results.append(evaluate_state(ready, state, folder, again=again, report=report))
        report(f"\n{results[-1]['what']}: {folder / card.CARD}")
        report(card.text(card.table(results[-1])))
    if not results:
        raise ConfigError(f"{workdir}: no checkpoint is good")
    for note in results[-1]["notes"]:
        report(f"note: {note}")
    _plot(workdir / "eval", results[-1]["protocol_sha256"], report)
    return results


def _plot(folder: Path, protocol: str, report: Report) -> None:
    """Draws what was evaluated by this protocol, if there is a line to draw."""
    everything = (card.read(path) for path in folder.glob(f"*/{card.RESULTS}"))
    alike = [r for r in everything if r and r["protocol_sha256"] == protocol]
    if len(alike) > 1:
        card.plot(folder / card.PLOT, alike)
        report(f"over the steps: {folder / card.PLOT}")


def prepare(
    config: Config, protocol: Protocol, *, features: Function | None = None
) -> Ready:
    """Reads the reals and gets the feature network, its floor and the samplers.

    Raises:
      ConfigError: the data or the features cannot be had, or allow no such metric.
    """
    check(protocol)
    split = protocol.split or config.data.split
    source = open_source(config, split)
    config = resolve(config, source)
    classes = config.data.classes or 0
    check_labels(protocol, classes)
    reals = imagesets.of_source(source, protocol.reals, bar)
    training = reals
    if split != config.data.split:
        training = imagesets.of_source(open_source(config), protocol.reals, bar)
    other = imagesets.held_out(config, split, source)
    test = None if other is None else imagesets.of_source(other, protocol.reals, bar)
    court = judge.open_judge(
        protocol,
        ImageSet(reals, classes, source.class_names),
        training,
        test,
        features=features,
        progress=bar,
    )
    modes = protocol.chosen_batch_norm()
    facts = {
        "real split": f"{config.data.name}, {split}",
        **court.facts,
        "labels of the samples": protocol.labels if classes else "none",
        "truncation": protocol.truncation,
        "seeds": ", ".join(map(str, _seeds(protocol))),
        "batch of the generator": config.data.batch,
    }
    samplers = {
        mode: sample.make_sampler(config, batch_statistics=mode == "batch")
        for mode in modes
    }
    standing = sample.make_standing(config)
    floors = judge.floor(court)
    return Ready(config, protocol, court, floors, facts, samplers, standing)


def evaluate_state(
    ready: Ready,
    state: GANState,
    folder: Path,
    *,
    again: bool = False,
    report: Report = print,
) -> card.Result:
    """Evaluates one state with every kind of weights and batch statistics asked for.

    Writes what it has after each of them, and goes on from what is there.
    """
    step = int(state.step)
    result = card.new(
        ready.facts,
        {
            "what": f"step {step} of {folder.parent.parent}",
            "step": step,
            "config sha256": config_digest(ready.config),
        },
    )
    before = card.read(folder / card.RESULTS)
    if before and not again and _same(before, result):
        result["results"], result["notes"] = before["results"], before["notes"]
    done = {(row["weights"], row["batch_norm"]) for row in result["results"]}
    weights = evaluated_weights(ready.protocol, ready.config)
    for (name, average), mode in itertools.product(weights.items(), ready.samplers):
        if (name, mode) in done:
            continue
        measured = [
            _measure(ready, state, average, mode, seed, f"step {step}, {name}, {mode}")
            for seed in _seeds(ready.protocol)
        ]
        names = [k for k in measured[0].values if all(k in m.values for m in measured)]
        values = {k: [m.values[k] for m in measured] for k in names}
        variant = {"weights": name, "batch_norm": mode}
        card.add(result, variant, values, ready.floors, ready.judge.samples)
        notes = [note for m in measured for note in m.notes]
        fresh = [*result["notes"], *ready.judge.notes, _MODES[mode], *notes]
        result["notes"] = list(dict.fromkeys(fresh))
        card.write(folder, result)
        report(f"step {step}, {name} weights, {mode} statistics: done")
    return result


_WHILE_TRAINING = "fid,kid,is,prdc,ifid,accuracy"
_MODES = {
    "moving": "moving: raw weights with their running averages of batch statistics; EMA"
    " weights with the EMA of these",
    "standing": f"standing: batch statistics recomputed over {sample.STANDING_BATCHES}"
    " batches with the weights that are evaluated",
    "batch": "batch: each generated batch is normalised by its own moments",
}


def config_digest(config: Config) -> str:
    """SHA-256 of the fields that make the experiment: not of those that may change."""
    values = {k: v for k, v in fields(config).items() if k not in MAY_CHANGE}
    return card.sha256(json.dumps(values, sort_keys=True))


def _measure(
    ready: Ready, state: GANState, average: int | None, mode: str, seed: int, what: str
) -> judge.Measured:
    config, protocol = ready.config, ready.protocol
    variables = generator_variables(state, average)
    if mode == "standing":
        variables = ready.standing(variables, seed, protocol.truncation)
    labels = _labels(ready)
    pieces = sample.samples(
        config,
        variables,
        labels,
        seed=seed,
        truncation=protocol.truncation,
        batch=config.data.batch,
        sampler=ready.samplers[mode],
    )
    return judge.measure(ready.judge, _chunks(pieces, labels, config.data.batch, what))


def _labels(ready: Ready) -> np.ndarray:
    count, classes = ready.judge.samples, ready.config.data.classes or 1
    known = ready.judge.reals.label if ready.protocol.labels == "real" else None
    return np.resize(np.arange(classes) if known is None else known, count).astype(
        np.int32
    )


def _chunks(
    pieces: Iterator[np.ndarray], labels: np.ndarray, batch: int, what: str
) -> Iterator[Examples]:
    """Pieces of `batch` images as larger ones, with their labels."""
    length = batch * -(-_CHUNK // batch)
    for start in bar(range(0, len(labels), length), what):
        label = labels[start : start + length]
        count = -(-len(label) // batch)
        images = list(itertools.islice(pieces, count))
        yield Examples(np.concatenate(images), label)


def _seeds(protocol: Protocol) -> range:
    return range(protocol.seed, protocol.seed + protocol.seeds)


def _same(before: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    keys = ("protocol_sha256", "config sha256", "step", "versions")
    return all(before.get(key) == result[key] for key in keys)


def while_training(workdir: Path, report: Report = print) -> Any:
    """An `evaluate` for loop.train: at every run.evaluate_every-th step.

    Measures the averaged weights (the raw ones where there are none) with their running
    statistics, everything but the classification accuracy score, and leaves
    eval/step_N/ in the workdir. The Fréchet distance decides which checkpoint is best.
    """
    ready: Ready | None = None

    def evaluate(config: Config, state: GANState) -> dict[str, float]:
        nonlocal ready
        if int(state.step) % config.run.evaluate_every:
            return {}
        if ready is None:
            protocol = Protocol(
                metrics="all" if config.data.classes == 0 else _WHILE_TRAINING,
                samples=config.run.evaluate_samples,
                weights="ema" if config.ema.decays else "raw",
                batch_norm="moving",
            )
            ready = prepare(config, protocol)
        folder = workdir / "eval" / f"step_{int(state.step)}"
        result = evaluate_state(ready, state, folder, report=report)
        values = {row["metric"]: row["value"] for row in result["results"]}
        metric = values[metric_name("fid", ready.judge.network)]
        return {"metric": metric, **{k: v for k, v in values.items() if "/" not in k}}

    return evaluate
