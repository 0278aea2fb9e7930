"""`sagan import`: files of other projects, and our own exports, become runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from sagan import config as config_lib
from sagan.config import loading
from sagan.config.architecture import fit_attention
from sagan.config.schema import Config, ConfigError, DiscriminatorConfig
from sagan.config.validation import check_config
from sagan.runtime.progress import Report, first_few
from sagan.state import Game, GANState, abstract_state, count, make_game
from sagan.weights import infer
from sagan.weights.convert import Collections, Tensors, to_ours, to_theirs
from sagan.weights.entries import discriminator_entries, generator_entries
from sagan.weights.files import Networks, read_networks
from sagan.weights.folder import is_folder, read_folder
from sagan.weights.layouts import LAYOUTS
from sagan.weights.new_run import (
    as_step,
    check,
    claim_new,
    collections_of,
    empty,
    new_state,
    save,
)

PRESETS = {  # by project and size; the last is for all other sizes
    "studiogan": {
        32: "peers/studiogan_cifar10",
        64: "peers/studiogan_tiny",
        128: "peers/studiogan_imagenet128",
    },
    "biggan": {128: "peers/biggan_pytorch_sagan"},
    "mmgen": {32: "peers/mmgen_cifar10", 128: "peers/mmgen_imagenet128"},
}
# MMGeneration's recipe of that size with normalised tables: its defaults, SyncBN
_MMGEN_NORMALISED = {"g.bn_eps": 1e-4, "g.bn_group": 0, "model.sn_eps": 1e-12}


def import_weights(
    paths: Sequence[Path],
    like: str | None,
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
      paths: Files of G, its average and D, or a folder of `sagan export`.
      like: The project that wrote them, a key of LAYOUTS; None: `sagan export`.
      workdir: Its step is the number after `step` or `iter` in a file's name, or 0.
      bgr: Whether the networks are of BGR images, as MMGeneration's are.
      overrides: Fields of the config by dotted name.
      report: Takes lines for the user.

    Raises:
      ConfigError: A file cannot be used, or the workdir is in use.
    """
    if like and (ours := next(filter(is_folder, paths), None)):
        kind = "a folder" if ours.is_dir() else "of sagan export"
        raise ConfigError(f"{ours}: is {kind}; --like {like} needs a .pth")
    if len(paths) == 1 and is_folder(paths[0]):
        if bgr:
            raise ConfigError("--bgr: safetensors of ours have red first")
        return _import_folder(paths[0], workdir, overrides or {}, report)
    if like is None:
        raise ConfigError(
            "--like is missing: studiogan, biggan or mmgen; only what `sagan export"
            " --to safetensors` wrote needs none"
        )
    networks = read_networks(paths, like)
    if any("wReLUinplace" in path.stem for path in paths):  # as MMGeneration says it
        overrides = {"d.rectified_shortcut": True, **(overrides or {})}
    config, preset = make_config(networks, like, overrides or {})
    step = _step(paths)
    if LAYOUTS[like].counts_d:
        step //= config.optim.d_steps
    game, where = make_game(config), ", ".join(map(str, paths))
    collections = _collections(game, networks, like, bgr=bgr, where=where)
    claim_new(workdir, config)
    state = new_state(game, collections)
    for line in _summary(networks, state, config, preset, LAYOUTS[like].unsaid):
        report(line)
    facts = {"like": like, "bgr": bgr, "recipe": preset, "sha256": networks.sources}
    save(workdir, config, state, step, facts, report)


def _step(paths: Sequence[Path]) -> int:
    """The step that a file's name tells, as `step=7`, `iter_7` or `iter7`; else 0."""
    for path in paths:
        if match := re.search(r"(?:step|iter)[=_-]?(\d+)", path.stem):
            return as_step(match[1], str(path))
    return 0


def _import_folder(
    path: Path, workdir: Path, overrides: Mapping[str, Any], report: Report
) -> None:
    """Reads a generator that `sagan export --to safetensors` wrote."""
    config, step, names, arrays, model, sha256 = read_folder(path)
    config = config_lib.replace(config, {"ema.decays": (), **overrides})
    check_config(config)
    game = make_game(config)
    shapes: Any = flatten_dict(collections_of(abstract_state(game).g), sep=".")
    check(arrays, shapes, str(model))
    claim_new(workdir, config)
    g: Any = unflatten_dict(dict(arrays), sep=".")
    state = new_state(game, {"g": g})
    report("the discriminator is random: an export has the generator alone")
    facts = {"sha256": {str(model): sha256}, "classes": names}
    save(workdir, config, state, step, facts, report)


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
    if like == "mmgen" and inferred["g.sn_tables"] != "none" == base.g.sn_tables:
        inferred |= _MMGEN_NORMALISED
    decays = base.ema.decays or (layout.ema_decay,)
    inferred |= {"ema.decays": decays if networks.g_ema else (), "ema.start": 0}
    config = config_lib.replace(base, {**inferred, **overrides})
    if networks.d is None:
        config = fit_attention(config, named={"g.attention"})
    check_config(config)
    return config, name


def _collections(
    game: Game, networks: Networks, like: str, *, bgr: bool, where: str
) -> dict[str, Collections]:
    """Our collections of each network that is there, by g, g_ema and d."""
    shapes, model = abstract_state(game), game.config.model

    def read(tensors: Tensors, player: str) -> Collections:
        entries_of = generator_entries if player == "g" else discriminator_entries
        entries = list(entries_of(game.config, LAYOUTS[like], bgr=bgr))
        wanted = collections_of(getattr(shapes, player))
        if 2 * count(wanted) > networks.size:  # before memory is taken for them
            raise ConfigError(
                f"{where}: {networks.size:,} bytes, too few for the"
                f" {count(wanted):,} numbers of networks with these shapes"
            )
        zeros = jax.device_get(empty(wanted))
        check(tensors, to_theirs(entries, LAYOUTS[like], zeros, model), where)
        return to_ours(entries, LAYOUTS[like], tensors, model)

    found = {"g": networks.g, "g_ema": networks.g_ema, "d": networks.d}
    return {
        name: read(tensors, name[0])
        for name, tensors in found.items()
        if tensors is not None
    }


def _summary(
    networks: Networks, state: GANState, config: Config, preset: str, unsaid: str
) -> list[str]:
    data = config.data
    attention = ", ".join(map(str, config.g.attention)) or "no size"
    average = ", ".join(map(str, config.ema.decays)) or "left out, as ema.decays says"
    lines = [
        f"G: {count(state.g.params):,} parameters, {data.size}x{data.size},"
        f" {data.classes} classes, attention at {attention}"
        + (f"; with its average ({average})" if networks.g_ema else ""),
        f"D: {count(state.d.params):,} parameters"
        + ("" if networks.d else ", random: no file has them"),
        f"everything else as in the recipe {preset}",
    ]
    if unsaid:
        lines.append(f"the files do not say {unsaid}")
    if networks.inert:
        lines.append(f"in the file, and not executed: {first_few(networks.inert)}")
    return lines
