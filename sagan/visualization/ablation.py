"""What a generator loses when its attention is switched off: gamma = 0 at inference."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from sagan.checkpoints.restore import Opened
from sagan.config.schema import ConfigError
from sagan.evaluation import results as results_lib
from sagan.evaluation import run
from sagan.evaluation.protocol import BATCH_NORM, Protocol, protocol_from_json
from sagan.evaluation.scoring import Function
from sagan.runtime.files import make_folder, write_whole
from sagan.state import GANState
from sagan.visualization import draw
from sagan.visualization.picture import Panel, Sheet, save
from sagan.visualization.record import read_result

TRAINED = "as trained"
Values = dict[tuple[str, ...], float]  # by metric, weights and batch statistics


def switched_off(state: GANState, layers: Sequence[str]) -> GANState:
    """The state with gamma = 0 in these layers of the generator and of its averages."""

    def off(params: PyTree[Array]) -> PyTree[Array]:
        zeros = {
            name: {**params[name], "gamma": jnp.zeros_like(params[name]["gamma"])}
            for name in layers
        }
        return {**params, **zeros}

    g = replace(state.g, params=off(state.g.params))
    ema = tuple(replace(average, params=off(average.params)) for average in state.ema)
    return replace(state, g=g, ema=ema)


def variants(layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The layers to switch off, by the variant's name: none, each, all if several."""
    each = {f"without {name}": (name,) for name in layers}
    together = {"without attention": tuple(layers)} if len(layers) > 1 else {}
    return {TRAINED: (), **each, **together}


def ablate(
    opened: Opened,
    labels: Int[np.ndarray, " n"],
    layers: Sequence[str],
    *,
    seed: int,
    out: Path,
    features: Function | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Draws and evaluates a checkpoint with attention layers switched off.

    The same latents in every row of `ablation.png`. The evaluation is that which the
    workdir has of this step, done again by the same protocol; `ablation.json` holds
    every number, `ablation.md` the table that is reported. The workdir's own evaluation
    stays as it is.

    Args:
      opened: the checkpoint; its evaluation is of the weights that it asked for.
      labels: of the samples that are drawn.
      layers: of the generator.
      seed: of the latents that are drawn.
      out: a folder.
      features: see run.prepare_evaluation; if the evaluation was by your own function.
      report: takes the lines for the user; also that there is no evaluation.

    Raises:
      ConfigError: the evaluation cannot be done again.
    """
    states = {
        name: switched_off(opened.state, off) for name, off in variants(layers).items()
    }
    z = draw.latents(opened, seed, len(labels))
    images = [draw.images(opened._replace(state=s), z, labels) for s in states.values()]
    title = f"{opened.words}: the same latents with and without attention"
    make_folder(out)
    panel = Panel(title, np.stack(images), list(states))
    save(out / "ablation.png", Sheet([panel], title).picture)
    report(f"{title}: {out / 'ablation.png'}")
    path = opened.workdir / "eval" / f"step_{opened.step}" / results_lib.RESULTS
    if (before := read_result(path)) is None:
        report(
            f"no metrics: {opened.workdir} has no evaluation of step {opened.step};"
            f" python eval.py --workdir {opened.workdir} --step {opened.step} makes one"
        )
        return
    try:
        protocol = _protocol(before, features)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    ready = run.prepare_evaluation(
        opened.config, protocol, opened.workdir, features=features
    )
    results = _evaluated(ready, states, before, out, report)
    lines = table(results)
    report("\n" + results_lib.text_table(lines))
    write_whole(out / "ablation.json", json.dumps(_numbers(results), indent=1) + "\n")
    write_whole(out / "ablation.md", results_lib.markdown_table(lines) + "\n")


def _protocol(before: results_lib.Result, features: Function | None) -> Protocol:
    """That of an evaluation, for every kind of weights and statistics that it has."""
    protocol = protocol_from_json(before.get("asked"))
    if ":" in protocol.features and features is None:
        # a results file may come from anywhere: it must not name code to run
        raise ConfigError(
            f"was evaluated by {protocol.features}; a function of yours can only be"
            " given in Python, to sagan.visualization.ablation.ablate"
        )
    names = {row.get("weights", "raw") for row in before["results"]}
    modes = {row.get("batch_norm", "moving") for row in before["results"]}
    if len(names) == 1:
        weights = names.pop().removeprefix("ema ")
    else:
        weights = "both" if len(names) == 2 and "raw" in names else "all"
    known = [mode for mode in BATCH_NORM if mode in modes]
    return replace(protocol, weights=weights, batch_norm=",".join(known))


def _evaluated(
    ready: run.PreparedEvaluation,
    states: dict[str, GANState],
    before: results_lib.Result,
    out: Path,
    report: Callable[[str], None],
) -> dict[str, results_lib.Result]:
    def again(name: str) -> results_lib.Result:
        return run.evaluate_state(
            ready,
            states[name],
            out / name.replace(" ", "_"),
            what=f"step {before['about']['step']} {name}",
            report=lambda line: report(f"{name}: {line}"),
        )

    results = {name: again(name) for name in states if name != TRAINED}
    facts = ("protocol_sha256", "versions")
    same = all(result[k] == before[k] for result in results.values() for k in facts)
    if not same:
        report("the evaluation in the workdir is by another protocol or version")
    return {TRAINED: before if same else again(TRAINED), **results}


def table(results: dict[str, results_lib.Result]) -> list[list[str]]:
    """A head, and a row for each metric of each kind of weights and statistics."""
    values = _numbers(results)
    lines = [["metric", "weights", "statistics", *results]]
    for row in values:
        cells = [f"{row[TRAINED]:.4g}"]
        for name in list(results)[1:]:
            if row[name] is None:
                cells.append("")
                continue
            change = row[name] - row[TRAINED]
            cells.append(f"{row[name]:.4g} ({change:+.2g})")
        lines.append([row["metric"], row["weights"], row["batch_norm"], *cells])
    return lines


def _numbers(results: dict[str, results_lib.Result]) -> list[dict[str, Any]]:
    """A row for each number that there is of the network as it was trained."""

    def by_name(result: results_lib.Result) -> Values:
        rows = [row for row in result["results"] if "/" not in row["metric"]]
        keys = ("metric", "weights", "batch_norm")
        names = [tuple(row.get(key, "") for key in keys) for row in rows]
        return dict(zip(names, [row["value"] for row in rows], strict=True))

    values = {name: by_name(result) for name, result in results.items()}
    return [
        {"metric": metric, "weights": weights, "batch_norm": mode}
        | {name: mine.get((metric, weights, mode)) for name, mine in values.items()}
        for metric, weights, mode in values[TRAINED]
    ]
