"""Evaluates the checkpoints of a run by a protocol."""

import datetime
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from sagan.checkpoints.bucket_copy import shown
from sagan.checkpoints.restore import (
    SavedRun,
    config_digest,
    generator_digest,
    open_saved,
)
from sagan.config.schema import ConfigError
from sagan.evaluation import card, generated, scoring
from sagan.evaluation import results as results_lib
from sagan.evaluation.kept import keeping, kept_path
from sagan.evaluation.prepared import PreparedEvaluation, prepare_evaluation
from sagan.evaluation.protocol import (
    Protocol,
    absolute,
    check_labels,
    check_protocol,
    evaluated_weights,
    option,
    options,
    protocol_to_json,
)
from sagan.evaluation.scoring import Function
from sagan.runtime import exchange, processes
from sagan.runtime.files import own_folder
from sagan.runtime.progress import Report
from sagan.state import GANState


def evaluate_run(
    workdir: Path,
    protocol: Protocol,
    *,
    steps: str = "latest",
    again: bool = False,
    keep: Sequence[str] = (),
    data_path: str = "",
    features: Function | None = None,
    report: Report = print,
) -> list[results_lib.Result]:
    """Evaluates checkpoints of a run into eval/step_N/, and plots eval/metrics.png.

    Results of an earlier call with the same protocol are not computed again. If several
    processes make this call, each draws its share of the samples and extracts its share
    of the features; the first computes, reports and writes, and only its results have
    rows.

    Args:
      workdir: The run's directory, which all processes can read; it may be going on.
      protocol: All choices.
      steps: "latest", "best", "all", or the step of a checkpoint.
      again: Compute existing results again too.
      keep: Kinds of arrays to keep beside the results: see kept.FIELDS.
      data_path: Where the run's data are now; empty: where they were.
      features: Replaces protocol.features: see scoring.open_scorer.
      report: Takes the lines for the user.

    Raises:
      ConfigError: There is no such run or checkpoint, or a metric is not defined.
    """
    check_protocol(protocol)
    report = report if processes.is_main() else lambda line: None
    with exchange.together():
        saved = open_saved(workdir, data_path)
        evaluated_weights(protocol, saved.config)
        check_labels(protocol, saved.config.data.classes)
        chosen = saved.steps(steps)
    ready = prepare_evaluation(saved.config, protocol, workdir, features=features)
    how = [f"--save-{kind}" for kind in keep] + ["--again"] * again
    how += [option("data-path", absolute(data_path))] if data_path else []
    results = []
    for state, step in _checkpoints(saved, steps, chosen, report):
        folder = step_folder(workdir, step)
        command = "" if features else _command(workdir, step, how, protocol)
        choices = {"again": again, "keep": keep, "report": report}
        result = evaluate_state(ready, state, folder, command=command, **choices)
        report(f"\n{result['about']['what']}: {folder / results_lib.CARD}")
        report(card.text_table(card.result_table(result)))
        results.append(result)
    if not results:
        raise ConfigError(f"{workdir}: no checkpoint is good")
    for note in results[-1]["notes"]:
        report(f"note: {note}")
    if processes.is_main():
        _plot(workdir / "eval", results[-1], report)
    processes.barrier()
    return results


def _command(workdir: Path, step: int, how: list[str], protocol: Protocol) -> str:
    """The command that repeats an evaluation, in any folder."""
    run = shlex.quote(absolute(shown(workdir)))
    parts = ["sagan eval", run, f"--step {step}", *how, options(protocol)]
    return " ".join(filter(None, parts))


def _checkpoints(
    saved: SavedRun, steps: str, chosen: Iterable[int], report: Report
) -> Iterator[tuple[GANState, int]]:
    """The states to evaluate and their steps; of all steps, those that are good."""
    for step in chosen:
        loaded, said = None, ""
        try:
            loaded = saved.load(None if steps == "latest" else step)
        except ConfigError as error:
            said = str(error)
        if bad := next(filter(None, exchange.texts(said)), ""):
            if steps != "all":
                raise ConfigError(bad)
            report(f"passed over: {bad}")
        elif loaded:
            yield loaded


def step_folder(workdir: Path, step: int) -> Path:
    """The folder of a step's results, which only the first process makes.

    Raises:
      ConfigError: It is a link; in all processes.
    """
    with exchange.together():
        if processes.is_main():
            own_folder(workdir, "eval", f"step_{step}")
    return workdir / "eval" / f"step_{step}"


def _plot(folder: Path, newest: results_lib.Result, report: Report) -> None:
    """Plots the results that can be compared with the newest, if there are several."""
    results = results_lib.comparable(results_lib.read_results(folder)[0], newest)
    if len(results) > 1:
        card.plot_results(folder / results_lib.PLOT, results)
        report(f"over the steps: {folder / results_lib.PLOT}")


def evaluate_state(
    ready: PreparedEvaluation,
    state: GANState,
    folder: Path,
    *,
    again: bool = False,
    keep: Sequence[str] = (),
    report: Report = print,
    what: str = "",
    command: str = "",
) -> results_lib.Result:
    """Evaluates one state with each of the protocol's weights and batch statistics.

    Writes the results after each variant, and continues from existing ones. `what` is
    the state's name in the card; by default step and run, whose eval/ has the folder.
    `command` repeats the evaluation. Of several processes only the first uses `folder`.
    """
    config, protocol = ready.samples.config, ready.samples.protocol
    step = int(state.step)
    weights = evaluated_weights(protocol, config)
    variants = list(product(weights.items(), ready.samples.samplers))
    about = {
        "what": what or f"step {step} of {folder.parent.parent.name}",
        "step": step,
        "sigma of spectral normalisation": config.model.sn_eval,
        "config sha256": config_digest(config),
        "generator sha256": generator_digest(state),
    }
    result = _new_result(ready, about)
    main = processes.is_main()  # the others draw their share, and know no files
    if main:
        redone = {
            (name, mode)
            for (name, _), mode in variants
            if again or not _are_kept(keep, folder, name, mode, protocol)
        }
        _take_earlier(result, ready, folder, redone)
    done = processes.broadcast_json([*map(_variant, result["results"])])
    for (name, average), mode in variants:
        if [name, mode] in done:
            continue
        started = datetime.datetime.now(datetime.UTC)
        values, notes = _over_seeds(ready, state, (name, average), mode, keep, folder)
        with exchange.together():
            baseline, without = ready.baselines() if main else ({}, [])
        if not main:
            continue
        variant = {"weights": name, "batch_norm": mode}
        results_lib.add_rows(result, variant, values, baseline, ready.scorer.samples)
        notes = [*ready.notes, *without, generated.MODES[mode], *notes]
        result["notes"] = list(dict.fromkeys([*result["notes"], *notes]))
        result["results"].sort(key=_place)
        results_lib.note_made(result, started, command)
        results_lib.write_result(folder, result)
        report(f"step {step}, {name} weights, {mode} statistics: done")
    if main:  # the latest, even if all was there
        results_lib.write_result(folder, result)
    return result


def _new_result(ready: PreparedEvaluation, about: dict[str, Any]) -> results_lib.Result:
    result = results_lib.new_result(ready.facts, about)
    result["asked"] = protocol_to_json(ready.samples.protocol)
    result["class_names"] = list(ready.class_names)
    return result


def _take_earlier(
    result: results_lib.Result,
    ready: PreparedEvaluation,
    folder: Path,
    redone: set[tuple[str, str]],
) -> None:
    """Adds the rows that an earlier call left, except those of `redone`."""
    before = results_lib.read_same_result(folder, result)
    if not before or not ready.scorer.network.key:  # the features may differ
        return
    rows = [row for row in before["results"] if _variant(row) not in redone]
    if rows:
        result["results"] = rows
        result["notes"], result["made"] = before["notes"], before.get("made", {})


def _over_seeds(
    ready: PreparedEvaluation,
    state: GANState,
    weights: tuple[str, int | None],
    mode: str,
    keep: Sequence[str],
    folder: Path,
) -> tuple[dict[str, list[float]], list[str]]:
    """Numbers that all seeds have, a list each, and notes."""
    name, average = weights
    measured = []
    for seed in ready.samples.protocol.every_seed():
        pieces = generated.draw_samples(ready.samples, state, average, mode, seed)
        with keeping(keep, folder, name, mode, seed) as take:
            measured.append(scoring.score(ready.scorer, pieces, take))
    names = [k for k in measured[0].values if all(k in m.values for m in measured)]
    notes = [note for m in measured for note in m.notes]
    return {k: [m.values[k] for m in measured] for k in names}, notes


def _are_kept(
    keep: Sequence[str], folder: Path, weights: str, mode: str, protocol: Protocol
) -> bool:
    return all(
        kept_path(folder, kind, weights, mode, seed).exists()
        for kind, seed in product(keep, protocol.every_seed())
    )


def _variant(row: dict[str, Any]) -> tuple[str, str]:
    return row["weights"], row["batch_norm"]


def _place(row: dict[str, Any]) -> tuple[bool, int]:
    """Sort key: raw weights first, then by mode."""
    return row["weights"] != "raw", list(generated.MODES).index(row["batch_norm"])
