"""Warm start: a run that begins with the weights of another one, run.init_from."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from sagan.checkpoints.restore import SavedRun, weights_digest
from sagan.checkpoints.workdir import read_config, split_step
from sagan.config.fields import differences, replace
from sagan.config.schema import Config, ConfigError
from sagan.discriminator import frozen_layers
from sagan.runtime.progress import Report
from sagan.state import Average, Game, GANState, Player, create_state

# fields that decide the shapes of layers, for a message
_SHAPES = "data.size data.channels g.z g.width g.multipliers d.width d.multipliers"


class _Source(NamedTuple):
    """A checkpoint of another run; its step and digest are known."""

    run: SavedRun
    state: GANState
    step: int
    digest: str


def check_source(config: Config, workdir: Path) -> Config:
    """Reads run.init_from, if there is one, before anything expensive.

    Returns:
      The config, in which run.init_from is an absolute path with a step, so that later
      checkpoints of the source change nothing, and run.init_digest is that of its
      weights.

    Raises:
      ConfigError: It is not another run with such a checkpoint, or has another digest.
    """
    if not config.run.init_from:
        return config
    folder, _ = split_step(config.run.init_from)
    if folder == workdir.resolve():
        raise _error(config, "is this run's own workdir; name another run's")
    source = _read(config)
    known = {"init_from": f"{folder}:{source.step}", "init_digest": source.digest}
    return replace(config, {f"run.{name}": value for name, value in known.items()})


def first_state(game: Game, report: Report) -> GANState:
    """The state before the first step: fresh but for what fits of run.init_from.

    Moments and step are always fresh.

    Args:
      game: Its run.init_from is that of check_source, or empty.
      report: Takes lines about the layers that were taken, and those that are new.

    Raises:
      ConfigError: run.init_from is gone, has changed, or has no layer that fits.
    """
    state, config = create_state(game), game.config
    if not config.run.init_from:
        return state
    source = _read(config)
    old = source.state
    taken = {
        p: _fitting(getattr(state, p).params, getattr(old, p).params) for p in "gd"
    }
    if not any(taken.values()):
        there = differences(source.run.config, config)
        other = [
            f"{name} is {there[name][0]} there, {there[name][1]} here"
            for name in _SHAPES.split()
            if name in there
        ]
        reason = "nothing fits: no layer has the name and shape of one there"
        raise _error(config, "; ".join([reason, *other]))
    report(f"weights of step {source.step} of {source.run.workdir}")
    for line in _comparison(config, state, source, taken):
        report(f"  {line}")
    averages = []
    for decay, new in zip(config.ema.decays, state.ema, strict=True):
        average, _ = _average_for(decay, source)
        params = _take(new.params, average.params)
        averages.append(Average(params, _take(new.batch_stats, average.batch_stats)))
    g, d = (
        _take_player(state.g, old.g, taken["g"]),
        _take_player(state.d, old.d, taken["d"]),
    )
    state = dataclasses.replace(state, g=g, d=d, ema=tuple(averages))
    return jax.tree.map(jnp.array, state)  # copies: a step takes over its buffers


def _take_player(new: Player, old: Player, taken: Collection[str]) -> Player:
    """A fresh player with the layers and statistics of another one that fit.

    A layer's weights are taken all together or not at all, and its spectral vectors go
    with them. Batch statistics do not depend on the classes, so they need only fit
    themselves.
    """
    stats = {}
    for kind, tree in new.stats.items():
        theirs, within = old.stats.get(kind, {}), None
        if kind == "spectral":  # v is there with model.sn_eval = "stored" alone
            theirs, within = _with_leaves_of(tree, theirs), taken
        stats[kind] = _take(tree, theirs, within)
    params = _take(new.params, old.params)
    return dataclasses.replace(new, params=params, stats=stats)


def _take(new: Any, old: Any, within: Collection[str] | None = None) -> Any:
    """A collection with the layers of another one that fit, within layers if given."""
    layers, theirs = _layers(new), _layers(old)
    for name in _fitting(new, old):
        if within is None or any(f"{name}/".startswith(f"{w}/") for w in within):
            layers[name] = theirs[name]
    return unflatten_dict(layers, sep="/")


def _with_leaves_of(new: Any, old: Any) -> Any:
    """A collection whose layers have the leaves that they have in another one.

    Those that are missing come from there.
    """
    layers, mine = _layers(old), _layers(new)
    for name in {*layers} & {*mine}:
        both = {**mine[name], **layers[name]}
        layers[name] = {leaf: both[leaf] for leaf in mine[name]}
    return unflatten_dict(layers, sep="/")


def _fitting(new: Any, old: Any) -> list[str]:
    """Names of the layers whose arrays have the same names and shapes in both."""
    mine, theirs = _layers(new), _layers(old)
    return [n for n in mine if n in theirs and _shapes(mine[n]) == _shapes(theirs[n])]


def _layers(tree: Any) -> dict[str, Any]:
    """The layers in a collection by name, such as block1/conv1 or attention8."""
    return flatten_dict(tree, is_leaf=_is_layer, sep="/")  # type: ignore


def _is_layer(path: Any, tree: Any) -> bool:
    """Whether it holds an array itself: attention is one layer, a block is several."""
    return any(not isinstance(inner, dict) for inner in tree.values())


def _shapes(layer: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype), layer)


def _average_for(decay: float, source: _Source) -> tuple[Average, str]:
    """The source's average of this decay, its first or its weights; and the name."""
    decays, g = source.run.config.ema.decays, source.state.g
    if not decays:
        raw = Average(params=g.params, batch_stats=g.stats["batch_stats"])
        return raw, "raw weights"
    i = decays.index(decay) if decay in decays else 0
    return source.state.ema[i], f"average {decays[i]}"


def _read(config: Config) -> _Source:
    folder, step = split_step(config.run.init_from)
    try:
        run = SavedRun(folder, read_config(folder))
        state, step = run.load(step)
    except ConfigError as error:
        raise _error(config, str(error)) from error
    digest, expected = weights_digest(state), config.run.init_digest
    if expected not in ("", digest):
        raise _error(config, f"has other weights than run.init_digest = {expected}")
    return _Source(run, state, step, digest)


def _error(config: Config, problem: str) -> ConfigError:
    return ConfigError(f"run.init_from = {config.run.init_from!r}: {problem}")


def _comparison(
    config: Config, state: GANState, source: _Source, taken: Mapping[str, list[str]]
) -> Iterable[str]:
    """Lines for the user: what was taken, what is new, and what may surprise."""
    for player in "gd":
        here, there = (getattr(c, player).sn for c in (config, source.run.config))
        if here != there:
            yield (
                f"{player}.sn is {here} here, {there} there: the same weights compute"
                " something else"
            )
        every, mine = _layers(getattr(state, player).params), taken[player]
        others = [name for name in every if name not in mine]
        name = player.upper()
        if not others:
            yield f"{name}: all {len(every)} layers taken"
            continue
        if mine:
            counts = f"{len(mine)} of {len(every)} layers taken"
            yield f"{name}: {counts}: {_grouped(mine, every)}"
        yield f"{name}: {len(others)} of {len(every)} new: {_grouped(others, every)}"
        held = frozen_layers(config) if player == "d" else []
        if stuck := [n for n in others if n.partition("/")[0] in held]:
            held_random = f"d.freeze = {config.d.freeze} freezes layers with random"
            yield f"{held_random} weights: {_grouped(stuck, every)}"
    for decay in config.ema.decays:
        if (name := _average_for(decay, source)[1]) != f"average {decay}":
            yield f"average {decay}: from the {name}"
    if config.ema.decays and config.ema.start:
        yield (
            "averages are copies of the weights until step ema.start ="
            f" {config.ema.start}; --ema.start 0 keeps those of the source"
        )


def _grouped(names: Collection[str], every: Collection[str]) -> str:
    """Layers by block, such as: block1 (bn1, bn2), block2, out."""
    blocks: dict[str, list[str]] = {}
    for name in names:
        block, _, layer = name.partition("/")
        blocks.setdefault(block, []).append(layer)
    parts = []
    for block, layers in blocks.items():
        whole = len(layers) == sum(n.partition("/")[0] == block for n in every)
        parts.append(block if whole else f"{block} ({', '.join(layers)})")
    return ", ".join(parts)
