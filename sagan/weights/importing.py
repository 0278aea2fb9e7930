"""Makes a workdir, as training leaves one, from files of other projects."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from sagan import config as config_lib
from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.workdir import (
    IMPORTED,
    check_workdir,
    has_checkpoint,
    write_config,
)
from sagan.config import loading
from sagan.config.architecture import fit_attention
from sagan.config.schema import Config, ConfigError, DiscriminatorConfig
from sagan.config.validation import check_config
from sagan.runtime.files import write_whole
from sagan.runtime.progress import Report, first_few
from sagan.state import (
    Average,
    Game,
    GANState,
    Player,
    abstract_state,
    count,
    create_state,
    make_game,
)
from sagan.weights import infer
from sagan.weights.convert import Tensors, to_ours, to_theirs
from sagan.weights.entries import discriminator_entries, generator_entries
from sagan.weights.files import Networks, read_networks
from sagan.weights.layouts import LAYOUTS

PRESETS = {  # by project and size; the last is for all other sizes
    "studiogan": {
        32: "peers/studiogan_cifar10",
        64: "peers/studiogan_tiny",
        128: "peers/studiogan_imagenet128",
    },
    "biggan": {128: "peers/biggan_pytorch_sagan"},
    "mmgen": {32: "peers/mmgen_cifar10", 128: "peers/mmgen_imagenet128"},
}


def import_weights(
    paths: Sequence[Path],
    like: str,
    workdir: Path,
    *,
    bgr: bool = False,
    overrides: Mapping[str, Any] | None = None,
    report: Report = print,
) -> None:
    """Reads a generator, and a discriminator if there is one, into a new workdir.

    Sizes, widths, attention, classes and tables are those of the tensors; the rest is a
    recipe of configs/peers/. `import.json` tells where the weights are from.

    Args:
      paths: One or two files.
      like: The project that wrote them, a key of LAYOUTS.
      workdir: Its step is the number after `step` or `iter` in a file's name, or 0.
      bgr: Whether the networks' images have blue first, as MMGeneration's do.
      overrides: Fields of the config by dotted name.
      report: Takes lines for the user.

    Raises:
      ConfigError: A file cannot be used, or the workdir is in use.
    """
    networks = read_networks(paths, like)
    config, preset = make_config(networks, like, overrides or {})
    workdir_config = check_workdir(workdir, config)
    if has_checkpoint(workdir):
        raise ConfigError(f"{workdir}: has checkpoints already; name a new directory")
    game = make_game(workdir_config)
    state = make_state(game, networks, like, bgr=bgr, where=", ".join(map(str, paths)))
    found = [re.search(r"(?:step|iter)[=_](\d+)", path.stem) for path in paths]
    step = next((int(match[1]) for match in found if match), 0)
    write_config(workdir, game.config)
    facts = {"like": like, "bgr": bgr, "recipe": preset, "sha256": networks.sources}
    write_whole(workdir / IMPORTED, json.dumps(facts, indent=1) + "\n")
    folder, keep = workdir / "checkpoints", config.run.keep
    with contextlib.closing(Checkpoints(folder, keep, report)) as checkpoints:
        checkpoints.save(step, replace(state, step=jnp.int32(step)))
    for line in _summary(networks, state, config, preset):
        report(line)
    report(f"step {step} is in {workdir}: sagan sample {workdir}")


def make_config(
    networks: Networks, like: str, overrides: Mapping[str, Any]
) -> tuple[Config, str]:
    """The config of the networks, and the name of the recipe that gave the rest."""
    layout = LAYOUTS[like]
    inferred = infer.generator_fields(networks.g, layout)
    size = inferred["data.size"]
    presets = PRESETS[like]
    name = presets.get(size) or list(presets.values())[-1]
    base = loading.read(name)
    if networks.d is not None:
        inferred |= infer.discriminator_fields(networks.d, layout, size)
    elif size != base.data.size:  # the recipe's D does not fit
        plain = DiscriminatorConfig(rectified_shortcut=base.d.rectified_shortcut)
        base = replace(base, d=replace(plain, width=inferred["g.width"]))
    if networks.g_ema is None:
        inferred["ema.decays"] = ()
    config = config_lib.replace(base, {**inferred, **overrides})
    if networks.d is None:
        config = fit_attention(config, named={"g.attention"})
    check_config(config)
    return config, name


def make_state(
    game: Game, networks: Networks, like: str, *, bgr: bool, where: str
) -> GANState:
    """The state of a run with these weights; optimizers are at their start.

    Raises:
      ConfigError: Names are missing or left over, or shapes do not fit; the message
        begins with `where`.
    """
    shapes = abstract_state(game)

    def zeros(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)

    def read(tensors: Tensors, player: Player, entries_of: Any) -> Any:
        entries = list(entries_of(game.config, LAYOUTS[like], bgr=bgr))
        shape = {"params": player.params, **player.stats}
        empty = jax.device_get(zeros(shape))
        model = game.config.model
        check(tensors, to_theirs(entries, LAYOUTS[like], empty, model), where)
        read = to_ours(entries, LAYOUTS[like], tensors, model)
        return jax.tree.map(jnp.asarray, read)

    def player(collections: Any, shape: Player) -> Player:
        params = collections.pop("params")
        return Player(params, collections, opt_state=zeros(shape.opt_state))

    g = player(read(networks.g, shapes.g, generator_entries), shapes.g)
    average = Average(g.params, g.stats["batch_stats"])
    if networks.g_ema is not None:
        of_average = read(networks.g_ema, shapes.g, generator_entries)
        average = Average(of_average["params"], of_average["batch_stats"])
    if networks.d is None:
        d = create_state(game).d
    else:
        d = player(read(networks.d, shapes.d, discriminator_entries), shapes.d)
    ema = tuple(jax.tree.map(jnp.copy, average) for _ in shapes.ema)
    counters = zeros({"step": shapes.step, "rollbacks": shapes.rollbacks})
    return GANState(g=g, d=d, ema=ema, lecam=zeros(shapes.lecam), **counters)


def check(tensors: Tensors, expected: Tensors, where: str) -> None:
    """Raises a ConfigError if a name is missing, left over or of another shape."""
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


def _summary(
    networks: Networks, state: GANState, config: Config, preset: str
) -> list[str]:
    data = config.data
    attention = ", ".join(map(str, config.g.attention)) or "no size"
    lines = [
        f"G: {count(state.g.params):,} parameters, {data.size}x{data.size},"
        f" {data.classes} classes, attention at {attention}"
        + ("; with its average" if networks.g_ema else ""),
        f"D: {count(state.d.params):,} parameters"
        + ("" if networks.d else ", random: no file has them"),
        f"everything else as in the recipe {preset}",
    ]
    if networks.inert:
        lines.append(f"in the file, and not executed: {', '.join(networks.inert)}")
    return lines
