"""`sagan import`: files of other projects, and our own exports, become runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sagan import config as config_lib
from sagan.config import loading
from sagan.config.architecture import fit_attention
from sagan.config.schema import Config, ConfigError, DiscriminatorConfig
from sagan.config.validation import check_config
from sagan.runtime.progress import Report, first_few
from sagan.state import Game, GANState, abstract_state, count, make_game
from sagan.weights import infer
from sagan.weights.checks import as_step, check_tensors, check_values
from sagan.weights.convert import Collections, Tensors, from_state_dict, to_state_dict
from sagan.weights.entries import discriminator_entries, generator_entries
from sagan.weights.files import Networks, read_networks
from sagan.weights.folder import is_folder, read_folder, refuse_bgr
from sagan.weights.layouts import LAYOUTS
from sagan.weights.new_run import (
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
# MMGeneration's other recipe at 128 px, whose tables are normalised: SyncBN, defaults
_MMGEN_NORMALISED = {"g.bn_eps": 1e-4, "g.bn_group": 0, "model.sn_eps": 1e-12}


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
      paths: Files of G, its average and D, or a folder of `sagan export`.
      like: The project that wrote them, a key of LAYOUTS; empty: `sagan export`.
      workdir: Its step is the number after `step` or `iter` in a file's name, or 0.
      bgr: Whether the networks were trained on BGR images, as MMGeneration's were.
      overrides: Fields of the config by dotted name.
      report: Takes lines for the user.

    Raises:
      ConfigError: A file cannot be used, or the workdir is in use.
    """
    _check_request(paths, like, bgr)
    if not like:
        return _import_folder(paths[0], workdir, overrides or {}, report)
    networks = read_networks(paths, like)
    if any("wReLUinplace" in path.stem for path in paths):  # as MMGeneration says it
        overrides = {"d.rectified_shortcut": True, **(overrides or {})}
    where = ", ".join(map(str, paths))
    config, preset, notes = make_config(networks, like, overrides or {}, where)
    step = _step(paths)
    if LAYOUTS[like].iterations_count_d:
        step //= config.optim.d_steps
    game = make_game(config)
    collections = _collections(game, networks, like, bgr=bgr, where=where)
    claim_new(workdir, config)
    state = new_state(game, collections)
    given = {"--bgr": bgr, "--d.rectified-shortcut": config.d.rectified_shortcut}
    unsaid = LAYOUTS[like].not_in_files
    notes += [f"no file says {what}" for option, what in unsaid if not given[option]]
    for line in [*_summary(networks, state, config), *notes]:
        report(line)
    facts = {"like": like, "bgr": bgr, "recipe": preset, "sha256": networks.sources}
    facts["average"] = networks.is_average
    save(workdir, config, state, step, facts, report)


def _check_request(paths: Sequence[Path], like: str, bgr: bool) -> None:
    """Raises a ConfigError if files are not there, or not for these options."""
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: is not there")
    if like and (ours := next(filter(is_folder, paths), None)):
        kind = "a folder" if ours.is_dir() else "of sagan export"
        raise ConfigError(f"{ours}: is {kind}; --like {like} needs a .pth")
    is_export = len(paths) == 1 and is_folder(paths[0])
    if is_export:
        refuse_bgr(bgr)
    if not is_export and like not in LAYOUTS:
        raise ConfigError(
            f"--like {like or 'is missing'}: must be {', '.join(LAYOUTS)}; only what"
            " `sagan export --to safetensors` wrote needs none"
        )


def _step(paths: Sequence[Path]) -> int:
    """The step that names of files tell, as `step=7`, `iter_7` or `iter7`; else 0."""
    found = {
        as_step(match[1], str(path))
        for path in paths
        if (match := re.search(r"(?:step|iter)[=_-]?(\d+)", path.stem))
    }
    if len(found) > 1:
        told = " and ".join(map(str, sorted(found)))
        raise ConfigError(f"{', '.join(map(str, paths))}: of steps {told}")
    return found.pop() if found else 0


def _import_folder(
    path: Path, workdir: Path, overrides: Mapping[str, Any], report: Report
) -> None:
    """Reads a generator that `sagan export --to safetensors` wrote."""
    config, step, names, arrays, model, sha256 = read_folder(path)
    config = config_lib.replace(config, {"ema.decays": (), **overrides})
    check_config(config)
    game = make_game(config)
    shapes: Any = flatten_dict(collections_of(abstract_state(game).g), sep=".")
    check_tensors(arrays, shapes, str(model))
    g: Any = unflatten_dict(dict(arrays), sep=".")
    check_values(g, str(model))
    claim_new(workdir, config)
    state = new_state(game, {"g": g})
    report("D is random, and there is no average: an export has one generator alone")
    facts = {"sha256": {str(model): sha256}, "classes": names}
    save(workdir, config, state, step, facts, report)


def make_config(
    networks: Networks, like: str, overrides: Mapping[str, Any], where: str
) -> tuple[Config, str, list[str]]:
    """The config of the networks, the recipe that gave the rest, and notes.

    Args:
      networks: Their tensors.
      like: As for import_weights.
      overrides: As for import_weights.
      where: The files, for messages.

    Raises:
      ConfigError: No config has these tensors, or `overrides` says otherwise.
    """
    layout, presets = LAYOUTS[like], PRESETS[like]
    inferred = _infer(infer.generator_fields, f"{where}: in G", networks.g, layout)
    size, tables = inferred["data.size"], inferred["g.sn_tables"]
    name = presets.get(size) or list(presets.values())[-1]
    recipe = base = loading.read(name)
    if networks.d is not None:
        inferred |= _infer(
            infer.discriminator_fields, f"{where}: in D", networks.d, layout, size
        )
    elif size != base.data.size:  # the recipe's D does not fit
        plain = DiscriminatorConfig(rectified_shortcut=base.d.rectified_shortcut)
        base = replace(base, d=replace(plain, width=inferred["g.width"]))
    for field in inferred.keys() & overrides.keys():
        if inferred[field] != overrides[field]:
            raise ConfigError(
                f"{field} = {overrides[field]}: {where} has {inferred[field]}"
            )
    own: dict[str, Any] = {"ema.decays": (), "ema.start": 0}
    if networks.g_ema is not None:
        own["ema.decays"] = base.ema.decays or (layout.ema_decay,)
    if like == "mmgen" and tables != "none" and recipe.g.sn_tables == "none":
        own |= _MMGEN_NORMALISED
    config = config_lib.replace(base, {**own, **overrides, **inferred})
    if networks.d is None:
        config = fit_attention(config, named={"g.attention"})
    check_config(config)
    changed = [
        f"{field} = {value}"
        for field, (_, value) in config_lib.differences(recipe, config).items()
        if field not in {*inferred, *overrides}
    ]
    notes = [f"everything else is as in the recipe {name}"]
    if changed:
        notes[0] += f", but {', '.join(changed)}"
    return config, name, notes


def _infer(fields: Callable[..., dict[str, Any]], where: str, *args: Any) -> Any:
    """Fields by a function of `infer`, whose errors get the file's name."""
    try:
        return fields(*args)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


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
        theirs = to_state_dict(entries, LAYOUTS[like], zeros, model)
        check_tensors(tensors, theirs, where)
        with np.errstate(all="ignore"):  # check_values tells what overflows
            found = from_state_dict(entries, LAYOUTS[like], tensors, model)
        check_values(found, where)
        return found

    found = {"g": networks.g, "g_ema": networks.g_ema, "d": networks.d}
    return {
        name: read(tensors, name[0])
        for name, tensors in found.items()
        if tensors is not None
    }


def _summary(networks: Networks, state: GANState, config: Config) -> list[str]:
    data = config.data
    attention = ", ".join(map(str, config.g.attention)) or "no size"
    average = ", ".join(map(str, config.ema.decays)) or "left out, as ema.decays says"
    lines = [
        f"G: {count(state.g.params):,} parameters, {data.size}x{data.size},"
        f" {data.classes} classes, attention at {attention}"
        + (f"; with its average ({average})" if networks.g_ema else ""),
        f"D: {count(state.d.params):,} parameters"
        + ("" if networks.d else ", random: no file has them"),
    ]
    if networks.is_average:
        lines.append("the file is an average: it becomes the weights themselves")
    if networks.inert:
        lines.append(f"in the file, and not executed: {first_few(networks.inert)}")
    return lines
