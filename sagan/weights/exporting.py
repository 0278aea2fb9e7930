"""Writes a run's generator for others: safetensors, or as another project has it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sagan.checkpoints.restore import open_run
from sagan.config.architecture import generator_blocks
from sagan.config.schema import Config, ConfigError
from sagan.runtime.files import make_place, open_regular, read_json, write_whole
from sagan.weights.convert import to_state_dict
from sagan.weights.entries import generator_entries
from sagan.weights.folder import CONFIG, refuse_bgr, write_folder
from sagan.weights.layouts import LAYOUTS, Layout
from sagan.weights.torch_file import MARK, torch_file


def export_weights(
    workdir: Path,
    to: str,
    out: Path,
    *,
    step: int | str | None = None,
    weights: str | None = None,
    bgr: bool = False,
) -> str:
    """Writes the generator of a checkpoint; returns lines for the user.

    Args:
      workdir: The run's directory.
      to: "safetensors" or a key of LAYOUTS.
      out: For safetensors a folder, which gets config.json, a model card and a grid
        too, as the Hugging Face hub expects; else a .pth file.
      step: As for open_run.
      weights: As for open_run.
      bgr: Whether to write a network that makes BGR images.

    Raises:
      ConfigError: There is no such checkpoint, the project cannot hold it, or `out`
        is something else than an earlier export.
    """
    check_out(out, is_file=to != "safetensors")
    opened = open_run(workdir, step, weights)
    collections = jax.device_get(opened.variables)
    if to == "safetensors":
        refuse_bgr(bgr)
        make_place(out, is_file=False)
        write_folder(opened, collections, out)
        return f"G of {opened.words}: {out}; its licence is for you to fill in"
    check_layout(opened.config, to)
    make_place(out, is_file=True)
    layout, model = LAYOUTS[to], opened.config.model
    entries = generator_entries(opened.config, layout, bgr=bgr)
    tensors = to_state_dict(entries, layout, collections, model)
    write_whole(out, torch_file(as_saved(to, tensors)))
    return "\n".join([f"G of {opened.words}: {out}", *_notes(opened.config, layout)])


def _notes(config: Config, layout: Layout) -> Iterator[str]:
    """How to get the same images there, where the project's defaults differ."""
    if (config.model.sn_eval, layout.sn_eval) == ("stored", "iterate"):
        yield (
            f"{layout.title} runs one more power iteration in evaluation than this run:"
            " its images will differ a little"
        )
    if config.g.bn_eps != layout.bn_eps:
        yield (
            f"set the epsilon of its batch norm to {config.g.bn_eps:g}:"
            f" {layout.title}'s is {layout.bn_eps:g}"
        )
    if layout.sizes and config.data.size not in layout.sizes:
        sizes = ", ".join(map(str, layout.sizes))
        yield f"{layout.title} has no network of {config.data.size} px: only {sizes}"


def check_out(out: Path, *, is_file: bool) -> None:
    """Raises a ConfigError if an export would overwrite other files or lie in a run."""
    for folder in (out.resolve(), *out.resolve().parents):
        if _is_run(folder):
            raise ConfigError(f"--out {out}: is in the workdir {folder}; name another")
    if (out.suffix == ".pth") != is_file or out.suffix == ".safetensors":
        kind = "a .pth file" if is_file else "a folder"
        raise ConfigError(f"--out {out}: must be {kind}")
    if is_file and out.exists() and not out.is_dir() and not _is_export(out):
        raise ConfigError(f"--out {out}: exists, and is no file of sagan export")
    if not is_file and out.is_dir() and any(out.iterdir()):
        if _facts(out).get("model_type") != "sagan":
            raise ConfigError(
                f"--out {out}: has files, and is no earlier export; name a new one"
            )


def _is_run(folder: Path) -> bool:
    if not (folder / CONFIG).exists():
        return False
    return (folder / "checkpoints").exists() or {"g", "d", "run"} <= {*_facts(folder)}


def _facts(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json; empty if there is none."""
    try:
        facts = read_json(folder / CONFIG)
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _is_export(path: Path) -> bool:
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return f"archive/{MARK}" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def as_saved(to: str, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """A generator's tensors where the project has them in its file."""
    if to == "biggan":
        return dict(tensors)
    if to == "studiogan":
        return {"state_dict": tensors}
    state = {f"generator.{name}": x for name, x in tensors.items()}
    return {"meta": {}, "state_dict": state}


def check_layout(config: Config, to: str) -> None:
    """Raises a ConfigError if a project's names cannot hold the generator."""
    layout = LAYOUTS[to]
    slots = any(block.slot for block in generator_blocks(config))
    needs = (
        (config.data.classes, "data.classes = 0", "class-conditional batch norm"),
        (config.g.sn, "g.sn = False", "layers with spectral normalisation"),
        (
            config.g.block == "attention" or not slots,
            f"g.block = {config.g.block!r}",
            "attention",
        ),
        (
            config.g.sn_tables in layout.tables,
            f"g.sn_tables = {config.g.sn_tables!r}",
            " or ".join(layout.tables),
        ),
    )
    for holds, field, only in needs:
        if not holds:
            raise ConfigError(f"{field}: {layout.title} has only {only}")
