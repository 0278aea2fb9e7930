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
import numpy as np

from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.workdir import (
    IMPORTED,
    check_workdir,
    has_checkpoint,
    write_config,
)
from sagan.config.schema import Config, ConfigError
from sagan.runtime.files import write_whole
from sagan.runtime.progress import Report, first_few
from sagan.state import (
    Average,
    Game,
    GANState,
    Player,
    abstract_state,
    create_state,
)
from sagan.weights.convert import Collections, Tensors


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


def as_step(value: Any, where: str) -> int:
    """A step that somebody else wrote; ConfigError if int32 does not hold it."""
    text = str(value)[:11] if type(value) in (int, str) else ""
    if not (text.isascii() and text.isdecimal() and int(text) < 2**31):
        raise ConfigError(f"{where}: its step must be whole, from 0 to 2^31 - 1")
    return int(text)


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


def check(tensors: Tensors, expected: Mapping[str, Any], where: str) -> None:
    """Raises a ConfigError if tensors do not fit those expected, or are not finite.

    Args:
      tensors: By name.
      expected: What has their shapes, by name.
      where: What the message begins with.
    """
    ignored = {
        name
        for name in tensors
        if name.endswith("num_batches_tracked")
        or f"{name}_orig" in tensors  # a normalised weight, as torch last applied it
    }
    odd = {
        name: f"{name} {tensors[name].shape}, not {expected[name].shape}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    }
    wrong = {
        "missing": sorted(set(expected) - set(tensors)),
        "left over": sorted(set(tensors) - set(expected) - ignored),
        "of another shape": list(odd.values()),
    }
    if any(wrong.values()):
        counts = [f"{len(x)} {what} ({first_few(x)})" for what, x in wrong.items() if x]
        raise ConfigError(f"{where}: names that do not fit: {'; '.join(counts)}")
    if broken := [x for x in expected if not np.isfinite(tensors[x]).all()]:
        raise ConfigError(f"{where}: NaN or infinity in {first_few(broken)}")
