"""A generator as a folder for the Hugging Face hub: written, and read again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict

import sagan
from sagan.checkpoints.restore import OpenedRun
from sagan.checkpoints.workdir import class_names, has_checkpoint, is_names
from sagan.config.fields import from_tree, to_json
from sagan.config.schema import Config, ConfigError
from sagan.runtime.files import read_json, read_whole, write_whole
from sagan.sampling import sampler
from sagan.sampling.grid import class_titles, image_grid, png
from sagan.weights.checks import as_step
from sagan.weights.model_card import model_card

MODEL, CONFIG, CARD, GRID = "model.safetensors", "config.json", "README.md", "grid.png"


def write_folder(opened: OpenedRun, collections: Any, out: Path) -> None:
    """Writes the arrays, the config, a model card and a grid of samples."""
    flat: Any = flatten_dict(collections, sep=".")
    about = {"step": str(opened.step), "weights": opened.weights}
    about |= {"format": "flax", "sagan": sagan.__version__}
    write_whole(out / MODEL, safetensors.numpy.save(flat, about))
    config = json.loads(to_json(opened.config))
    del config["run"], config["data"]["path"]  # of this machine
    names = class_names(opened.workdir)
    facts = {"model_type": "sagan", **about, "classes": names, "config": config}
    write_whole(out / CONFIG, json.dumps(facts, indent=1) + "\n")
    z, y = sampler.fixed_inputs(opened.config)
    images = np.asarray(sampler.make_sampler(opened.config)(opened.variables, z, y))
    titles = class_titles(opened.config.data.classes, names)
    write_whole(out / GRID, png(image_grid(images, np.asarray(y), titles)))
    write_whole(out / CARD, model_card(opened, GRID))


def is_folder(path: Path) -> bool:
    """Whether a path is such a folder, or the file of arrays in one."""
    return path.is_dir() or path.suffix == ".safetensors"


def refuse_bgr(bgr: bool) -> None:
    """Raises a ConfigError if a folder of ours is asked for, or given, as BGR."""
    if bgr:
        raise ConfigError("--bgr: is for files of others; our safetensors are RGB")


class Folder(NamedTuple):
    """The content of a folder by `write_folder`.

    Attributes:
      config: The config.
      step: The step.
      classes: Names of the classes by label; empty if they are not known.
      arrays: The arrays by dotted path.
      model: The file of these.
      sha256: SHA-256 of that file.
    """

    config: Config
    step: int
    classes: list[str]
    arrays: dict[str, np.ndarray]
    model: Path
    sha256: str


def read_folder(path: Path) -> Folder:
    """Reads such a folder, or the file of arrays in one.

    Fields of `run` and data.path, which may be a stranger's, are the defaults.

    Raises:
      ConfigError: Something is missing, or is not as `write_folder` leaves it.
    """
    if has_checkpoint(path):
        raise ConfigError(f"{path}: is a workdir already; sagan sample {path}")
    model = path / MODEL if path.is_dir() else path
    facts = model.with_name(CONFIG)
    content = read_whole(model)
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        found = safetensors.numpy.load(content)
        arrays = {name: np.asarray(x, np.float32) for name, x in found.items()}
    except (safetensors.SafetensorError, KeyError) as error:
        raise ConfigError(f"{model}: no safetensors file of ours: {error}") from error
    try:
        about = read_json(facts)
        if about.get("model_type") != "sagan":
            raise ValueError("model_type is not sagan")
        tree = {k: v for k, v in about["config"].items() if k != "run"}
        tree["data"] = {k: v for k, v in tree["data"].items() if k != "path"}
        step, config = as_step(about["step"], str(facts)), from_tree(tree)
        names = about.get("classes", [])
        if not is_names(names) or len(names) not in (0, config.data.classes):
            raise ValueError(f"classes must be {config.data.classes} names, or none")
        return Folder(config, step, names, arrays, model, sha256)
    except OSError as error:
        raise ConfigError(f"{facts}: cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise ConfigError(f"{facts}: lacks {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{facts}: not as sagan export writes it: {error}") from error
