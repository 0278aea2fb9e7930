"""A workdir, as training leaves one, of weights from elsewhere."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.workdir import (
    IMPORTED,
    check_workdir,
    has_checkpoint,
    write_config,
)
from sagan.config.schema import Config, ConfigError
from sagan.runtime.files import write_whole
from sagan.runtime.progress import Report
from sagan.state import (
    Average,
    Game,
    GANState,
    Player,
    abstract_state,
    create_state,
)
from sagan.weights.convert import Collections


def new_state(game: Game, networks: Mapping[str, Collections]) -> GANState:
    """The state with these weights; optimizers are at their start.

    Args:
      game: Its config describes the networks.
      networks: Collections of "g", and of "d" (random if it is missing) and "g_ema" (as
        g if it is missing).
    """
    shapes = abstract_state(game)

    def player(collections: Collections, shape: Player) -> Player:
        stats = {k: v for k, v in collections.items() if k != "params"}
        moments = empty(shape.opt_state)
        return Player(collections["params"], stats, opt_state=moments)

    on_device = jax.tree.map(jnp.asarray, dict(networks))
    g = player(on_device["g"], shapes.g)
    d = player(on_device["d"], shapes.d) if "d" in networks else create_state(game).d
    own = on_device.get("g_ema", on_device["g"])
    average = Average(own["params"], own["batch_stats"])
    ema = tuple(jax.tree.map(jnp.copy, average) for _ in shapes.ema)
    counters = empty({"step": shapes.step, "rollbacks": shapes.rollbacks})
    return GANState(g=g, d=d, ema=ema, lecam=empty(shapes.lecam), **counters)


def collections_of(player: Player) -> Collections:
    """A player's collections, of its shapes for instance."""
    return {"params": player.params, **player.stats}


def empty(tree: Any) -> Any:
    """Zeros of the shapes in a tree."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)


def claim_new(workdir: Path, config: Config) -> None:
    """Makes sure that a workdir can take a new run; ConfigError if it cannot."""
    check_workdir(workdir, config)
    if has_checkpoint(workdir):
        raise ConfigError(f"{workdir}: has checkpoints already; name a new directory")


def save(
    workdir: Path,
    config: Config,
    state: GANState,
    step: int,
    facts: Mapping[str, Any],
    report: Report,
) -> None:
    """Writes the run, and `import.json` with the facts about its weights."""
    write_config(workdir, config)
    write_whole(workdir / IMPORTED, json.dumps(facts, indent=1) + "\n")
    folder, keep = workdir / "checkpoints", config.run.keep
    with contextlib.closing(Checkpoints(folder, keep, report)) as checkpoints:
        checkpoints.save(step, replace(state, step=jnp.int32(step)))
    report(f"step {step} is in {workdir}: sagan sample {workdir}")
    report(f"to train on: sagan train --workdir {workdir}")
