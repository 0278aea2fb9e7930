"""Switches attention off (gamma = 0) at inference, and measures what is lost."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from sagan.checkpoints.restore import OpenedRun
from sagan.config.schema import ConfigError
from sagan.evaluation import card, prepared, run
from sagan.evaluation import results as results_lib
from sagan.evaluation.protocol import BATCH_NORM, Protocol, protocol_from_json
from sagan.evaluation.scoring import Function
from sagan.runtime.files import make_folder, write_whole
from sagan.runtime.progress import Report
from sagan.sampling.grid import png
from sagan.sampling.layout import Panel, Sheet
from sagan.state import GANState
from sagan.visualization import checkpoint_images as drawing

TRAINED = "as trained"
_KEYS = ("metric", "weights", "batch_norm")


def switch_off(state: GANState, layers: Sequence[str]) -> GANState:
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


def ablations(layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The layers to switch off, by name: none, each, and all if there are several."""
    each = {f"without {name}": (name,) for name in layers}
    together = {"without attention": tuple(layers)} if len(layers) > 1 else {}
    return {TRAINED: (), **each, **together}


def ablate(
    opened: OpenedRun,
    labels: Int[np.ndarray, " n"],
    layers: Sequence[str],
    *,
    seed: int,
    out: Path,
    features: Function | None = None,
    report: Report = print,
) -> None:
    """Draws and evaluates a checkpoint with attention layers switched off.

    Each row of `ablation.png` has the same latents. The workdir's evaluation of this
    step is repeated by the same protocol; `ablation.json` holds all numbers,
    `ablation.md` the reported table. The evaluation in the workdir stays unchanged.

    Labels and seed are those of the samples to draw. An evaluation by a feature
    function of your own needs `features`: see prepared.prepare_evaluation.

    Raises:
      ConfigError: The evaluation cannot be repeated.
    """
    states = {
        name: switch_off(opened.state, o) for name, o in ablations(layers).items()
    }
    z = drawing.latents(opened, seed, len(labels))
    variants = [opened._replace(state=state) for state in states.values()]
    rows = [drawing.draw_rows(one, z, labels, len(labels)) for one in variants]
    title = f"{opened.words}: the same latents with and without attention"
    make_folder(out)
    panel = Panel(title, np.concatenate(rows), list(states))
    write_whole(out / "ablation.png", png(Sheet([panel], title).picture))
    report(f"{title}: {out / 'ablation.png'}")
    path = opened.workdir / "eval" / f"step_{opened.step}" / results_lib.RESULTS
    if (before := results_lib.read_complete_result(path)) is None:
        report(
            f"no metrics: {opened.workdir} has no evaluation of step {opened.step}; to"
            f" evaluate it: sagan eval {opened.workdir} --step {opened.step}"
        )
        return
    try:
        protocol = _same_protocol(before, features)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    ready = prepared.prepare_evaluation(
        opened.config, protocol, opened.workdir, features=features
    )
    numbers = _compare(_evaluate(ready, states, before, out, report))
    lines = comparison_table(numbers)
    report("\n" + card.text_table(lines))
    write_whole(out / "ablation.json", json.dumps(numbers, indent=1) + "\n")
    write_whole(out / "ablation.md", card.markdown_table(lines) + "\n")


def _same_protocol(before: results_lib.Result, features: Function | None) -> Protocol:
    """The protocol of an evaluation, with all its kinds of weights and statistics."""
    protocol = protocol_from_json(before.get("asked"))
    if ":" in protocol.features and features is None:
        # a results file may come from anywhere: it must not name code to run
        raise ConfigError(
            f"was evaluated by {protocol.features}; your own function can only be"
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


def _evaluate(
    ready: prepared.PreparedEvaluation,
    states: dict[str, GANState],
    before: results_lib.Result,
    out: Path,
    report: Report,
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
        report(
            "the workdir's evaluation has another protocol or version: it is repeated"
        )
    return {TRAINED: before if same else again(TRAINED), **results}


def _compare(results: dict[str, results_lib.Result]) -> list[dict[str, Any]]:
    """A row for each number of the trained network, with that of each ablation."""
    values = {
        name: {
            tuple(row.get(key, "") for key in _KEYS): row["value"]
            for row in result["results"]
            if "/" not in row["metric"]
        }
        for name, result in results.items()
    }
    return [
        dict(zip(_KEYS, place, strict=True))
        | {name: mine.get(place) for name, mine in values.items()}
        for place in values[TRAINED]
    ]


def comparison_table(numbers: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A head, and a row for each metric of each kind of weights and statistics."""
    names = [name for name in numbers[0] if name not in (*_KEYS, TRAINED)]
    lines = [["metric", "weights", "statistics", TRAINED, *names]]
    for row in numbers:
        trained = row[TRAINED]
        cells = [
            "" if row[k] is None else f"{row[k]:.4g} ({row[k] - trained:+.2g})"
            for k in names
        ]
        lines.append([*(row[key] for key in _KEYS), f"{trained:.4g}", *cells])
    return lines
