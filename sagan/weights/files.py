"""Finds the networks in files of other projects."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sagan.config.schema import ConfigError
from sagan.metrics.pickled import read_checkpoint
from sagan.runtime.files import read_whole
from sagan.runtime.progress import first_few
from sagan.weights import infer
from sagan.weights.layouts import LAYOUTS

Tensors = Mapping[str, np.ndarray]
# MMGeneration keeps all networks in one state_dict
_PREFIXES = {"generator_ema.": "g_ema", "generator.": "g", "discriminator.": "d"}
_WORDS = {"g": "generator", "d": "discriminator", "g_ema": "averaged generator"}


class Networks(NamedTuple):
    """Tensors of the networks that were found.

    Attributes:
      g: The generator's.
      g_ema: Those of its average, if they are there too.
      d: The discriminator's, if they are there.
      sources: SHA-256 of each file by its path.
      size: Bytes in all files.
      is_average: Whether `g` is from a file of an average, and no other was given.
      inert: What the files name besides tensors; none of it was executed.
    """

    g: Tensors
    g_ema: Tensors | None
    d: Tensors | None
    sources: dict[str, str]
    size: int
    is_average: bool
    inert: list[str]


def read_networks(paths: Iterable[Path], like: str) -> Networks:
    """Reads the networks in one to three files of a project.

    Args:
      paths: The files, in any order. A generator whose file is named G_ema is an
        average.
      like: The project, a key of LAYOUTS.

    Raises:
      ConfigError: A file cannot be read, or is another project's; a network is there
        twice, or there is no generator.
    """
    found: dict[str, Tensors] = {}
    sources: dict[str, str] = {}
    inert: set[str] = set()
    size = 0
    for path in paths:
        content = read_whole(path)
        sources[str(path)] = hashlib.sha256(content).hexdigest()
        size += len(content)
        tree, names = read_checkpoint(path, content)
        inert |= {*names}
        averaged = re.search("(^|[^a-zA-Z])G_ema", path.name) is not None
        for name, tensors in _split(tree, path, like).items():
            name = "g_ema" if name == "g" and averaged else name
            if name in found:
                raise ConfigError(
                    f"{path}: a second {_WORDS[name]}; give one of each, an average as"
                    " G_ema.pth"
                )
            found[name] = tensors
    if "g" not in found and "g_ema" not in found:
        raise ConfigError(
            f"{', '.join(sources)}: a discriminator alone; give its generator too"
        )
    average = found.get("g_ema") if "g" in found else None
    g = found["g" if "g" in found else "g_ema"]
    return Networks(
        g=g,
        g_ema=average,
        d=found.get("d"),
        sources=sources,
        size=size,
        is_average="g" not in found,
        inert=sorted(inert),
    )


def _split(tree: dict, path: Path, like: str) -> dict[str, Tensors]:
    """The networks in a file by what they are: g, g_ema or d."""
    state = tree.get("state_dict", tree)
    if not isinstance(state, Mapping):
        raise ConfigError(f"{path}: its state_dict is a tensor")
    tensors = {
        name.removeprefix("module."): x  # torch.nn.DataParallel's
        for name, x in state.items()
        if isinstance(x, np.ndarray)
    }
    parts = {
        name: {k.removeprefix(prefix): tensors[k] for k in inner}
        for prefix, name in _PREFIXES.items()
        if (inner := [k for k in tensors if k.startswith(prefix)])
    }
    whole = {"": tensors} if not parts else parts
    found = {}
    for name, part in whole.items():
        kind = infer.player(part, LAYOUTS[like])
        shared = any(k.startswith("shared.") for k in part)
        if shared or kind is None or (name and kind != name[0]):
            held = sorted(map(str, state))
            raise ConfigError(f"{path}: {_unlike(part, like, held)}")
        found[name or kind] = part
    return found


def _unlike(tensors: Tensors, like: str, held: list[str]) -> str:
    """Says why tensors are no network of a project."""
    other = infer.owner(tensors)
    if any(name.startswith("shared.") for name in tensors):
        return (
            "a BigGAN: its classes have a shared embedding, which no SAGAN has; only"
            " networks without it (BigGAN-PyTorch's SAGAN scripts) can be read"
        )
    if other and other != like:
        return f"has the names of {LAYOUTS[other].title}; try --like {other}"
    title = LAYOUTS[like].title
    if not tensors:
        return f"holds no tensors where {title} has them; it has {first_few(held)}"
    names = first_few(sorted(tensors))
    return f"neither a generator nor a discriminator of {title}; it has {names}"
