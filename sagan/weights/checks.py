"""Checks of weights from elsewhere, made before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from sagan.config.schema import ConfigError
from sagan.runtime.progress import first_few, printable
from sagan.weights.convert import Collections, Tensors


def as_step(value: Any, where: str) -> int:
    """A step that somebody else wrote; ConfigError if int32 does not hold it."""
    text = str(value)[:11] if type(value) in (int, str) else ""
    if not (text.isascii() and text.isdecimal() and int(text) < 2**31):
        shown = printable(repr(value)[:20])
        raise ConfigError(f"{where}: step {shown}; must be whole, from 0 to 2^31 - 1")
    return int(text)


def check_tensors(tensors: Tensors, expected: Mapping[str, Any], where: str) -> None:
    """Raises a ConfigError if a name is missing, left over or of another shape or type.

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
    pairs = [
        (name, tensors[name], expected[name]) for name in expected if name in tensors
    ]
    wrong = {
        "missing": sorted(set(expected) - set(tensors)),
        "left over": sorted(set(tensors) - set(expected) - ignored),
        "of another shape": [
            f"{name} {x.shape}, not {y.shape}"
            for name, x, y in pairs
            if x.shape != y.shape
        ],
        "not floating": [
            f"{name} {x.dtype}"
            for name, x, _ in pairs
            if not jnp.issubdtype(x.dtype, jnp.floating)
        ],
    }
    if any(wrong.values()):
        counts = [f"{len(x)} {what} ({first_few(x)})" for what, x in wrong.items() if x]
        raise ConfigError(f"{where}: tensors that do not fit: {'; '.join(counts)}")


def check_values(collections: Collections, where: str) -> None:
    """Raises a ConfigError if an array of ours can be no weight or statistic."""
    flat: Any = flatten_dict(collections, sep=".")
    for path, x in flat.items():
        leaf, problem = path.rpartition(".")[2], ""
        if not np.isfinite(x).all():
            problem = "NaN or infinity"
        elif leaf == "var" and x.min() < 0:
            problem = "a negative variance"
        elif leaf in ("u", "v") and not x.any():
            problem = "a zero vector"
        if problem:
            raise ConfigError(f"{where}: {problem} in {path}, by its name here")
