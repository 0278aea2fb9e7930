"""What a generator loses when its attention is switched off: gamma = 0 at inference."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from sagan import card, evaluate
from sagan.export import Opened
from sagan.look import draw
from sagan.look.picture import Panel, Sheet, save
from sagan.maps import attention_layers
from sagan.protocol import from_json
from sagan.schema import ConfigError
from sagan.state import GANState
from sagan.workdir import write_whole

TRAINED = "as trained"
Values = dict[tuple[str, str, str], float]  # by metric, weights and batch statistics


def switched_off(state: GANState, layers: Sequence[str]) -> GANState:
    """The state with gamma = 0 in these layers of the generator and of its averages."""

    def off(params: PyTree[Array]) -> PyTree[Array]:
        zeros = {
            name: {**params[name], "gamma": jnp.zeros_like(params[name]["gamma"])}
            for name in layers
        }
        return {**params, **zeros}

    g = dataclasses.replace(state.g, params=off(state.g.params))
    ema = tuple(
        dataclasses.replace(average, params=off(average.params))
        for average in state.ema
    )
    return dataclasses.replace(state, g=g, ema=ema)


def variants(opened: Opened) -> dict[str, tuple[str, ...]]:
    """The layers to switch off, by the variant's name: none, each, all if several."""
    layers = tuple(attention_layers(opened.config, "g"))
    each = {f"without {name}": (name,) for name in layers}
    together = {"without attention": layers} if len(layers) > 1 else {}
    return {TRAINED: (), **each, **together}


def ablate(
    opened: Opened,
    labels: Int[np.ndarray, " n"],
    *,
    seed: int,
    out: Path,
    report: Callable[[str], None] = print,
) -> None:
    """Draws and evaluates a checkpoint with each attention layer switched off.

    The same latents in every row of `ablation.png`. The evaluation is that which the
    workdir has of this step, done again by the same protocol; `ablation.json` holds
    every number, `ablation.md` the table that is reported.

    Args:
      opened: the checkpoint; its evaluation is of the weights that it asked for.
      labels: of the samples that are drawn.
      seed: of their latents.
      out: a folder.
      report: takes the lines for the user; also that there is no evaluation.

    Raises:
      ConfigError: the evaluation cannot be done again.
    """
    states = {
        name: switched_off(opened.state, layers)
        for name, layers in variants(opened).items()
    }
    z = draw.latents(opened, seed, len(labels))
    images = [draw.images(opened._replace(state=s), z, labels) for s in states.values()]
    title = f"{opened.words}: the same latents with and without attention"
    panel = Panel(title, np.stack(images), list(states))
    out.mkdir(parents=True, exist_ok=True)
    save(out / "ablation.png", Sheet([panel], title).picture)
    report(f"{title}: {out / 'ablation.png'}")
    path = opened.workdir / "eval" / f"step_{opened.step}" / card.RESULTS
    if (before := card.read(path)) is None:
        report(
            f"no metrics: {opened.workdir} has no evaluation of step {opened.step};"
            f" python eval.py --workdir {opened.workdir} --step {opened.step} makes one"
        )
        return
    results = _evaluated(opened, states, before, path, out, report)
    lines = table(results)
    report("\n" + card.text(lines))
    write_whole(out / "ablation.json", json.dumps(_numbers(results), indent=1) + "\n")
    write_whole(out / "ablation.md", card.markdown(lines) + "\n")


def _evaluated(
    opened: Opened,
    states: dict[str, GANState],
    before: card.Result,
    path: Path,
    out: Path,
    report: Callable[[str], None],
) -> dict[str, card.Result]:
    try:
        protocol = from_json(before.get("asked"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; evaluate again with eval.py") from error
    ready = evaluate.prepare(opened.config, protocol, opened.workdir)
    results = {}
    for name, state in states.items():
        folder = path.parent if name == TRAINED else out / name.replace(" ", "_")
        what = "" if name == TRAINED else f"step {opened.step} {name}"
        results[name] = evaluate.evaluate_state(
            ready,
            state,
            folder,
            what=what,
            report=lambda line, n=name: report(f"{n}: {line}"),
        )
    return results


def table(results: dict[str, card.Result]) -> list[list[str]]:
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


def _numbers(results: dict[str, card.Result]) -> list[dict[str, Any]]:
    """A row for each number that there is of the network as it was trained."""

    def by_name(result: card.Result) -> Values:
        return {
            (row["metric"], row["weights"], row["batch_norm"]): row["value"]
            for row in result["results"]
            if "/" not in row["metric"]  # not of each class
        }

    values = {name: by_name(result) for name, result in results.items()}
    return [
        {"metric": metric, "weights": weights, "batch_norm": mode}
        | {name: mine.get((metric, weights, mode)) for name, mine in values.items()}
        for metric, weights, mode in values[TRAINED]
    ]
