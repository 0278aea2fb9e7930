"""Another project's tensors to our collections, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sagan.config.schema import ModelConfig
from sagan.weights.entries import Entry, Normalised, Plain, orders
from sagan.weights.layouts import Layout

Tensors = Mapping[str, np.ndarray]
Collections = dict[str, Any]


def from_state_dict(
    entries: Iterable[Entry], layout: Layout, tensors: Tensors, model: ModelConfig
) -> Collections:
    """Our collections of a network, in float32.

    Args:
      entries: The layers of the network.
      layout: The project's names.
      tensors: Those of `to_state_dict`, and any others.
      model: Its sn_eval says whether v is kept.
    """
    found: dict[tuple[str, ...], np.ndarray] = {}
    for entry in entries:
        if isinstance(entry, Plain):
            x = np.asarray(tensors[entry.theirs], np.float32)
            x = x if entry.shape is None else x.reshape(())
            found[(entry.collection, *entry.ours)] = (
                x + entry.offset if entry.offset else x
            )
            continue
        own = {
            name: np.asarray(tensors[f"{entry.theirs}.{name}"], np.float32)
            for name in tensor_names(entry, layout)
        }
        weight = own[tensor_names(entry, layout)[0]]
        by_u, _ = orders(entry, weight.shape)
        found[("params", *entry.ours, entry.leaf)] = entry.inward(weight)
        if entry.bias:
            found[("params", *entry.ours, "bias")] = own["bias"][by_u]
        for name, value in _spectral(entry, weight, own, model).items():
            found[("spectral", *entry.ours, name)] = value
    copies = {path: np.array(x, np.float32, order="C") for path, x in found.items()}
    return unflatten_dict(copies)


def tensor_names(entry: Normalised, layout: Layout) -> list[str]:
    """Names of the tensors of a normalised layer; the first is the weight."""
    torch = ["weight_orig", "weight_u", "weight_v"]
    own = torch if layout.sn == "torch" else ["weight", "u0", "sv0"]
    return own + ["bias"] * entry.bias


def _spectral(
    entry: Normalised, weight: np.ndarray, own: Tensors, model: ModelConfig
) -> dict[str, Any]:
    by_u, by_v = orders(entry, weight.shape)
    flat = weight.reshape(len(weight), -1)
    u = own["u0" if "u0" in own else "weight_u"].ravel()
    v = own["weight_v"] if "weight_v" in own else unit(u @ flat)
    sigma = own["sv0"][0] if "sv0" in own else u @ flat @ v
    ours = {"u": u[by_u][None], "sigma": sigma}
    return ours | ({"v": v[by_v][None]} if model.sn_eval == "stored" else {})


def to_state_dict(
    entries: Iterable[Entry],
    layout: Layout,
    collections: Collections,
    model: ModelConfig,
) -> dict[str, np.ndarray]:
    """The state_dict with which the project's evaluation computes what ours does.

    Where it evaluates with stored vectors and ours iterates, u and v are those after
    the iteration of our evaluation.
    """
    flat: Any = flatten_dict(collections)
    found: dict[str, np.ndarray] = {}
    for entry in entries:
        if isinstance(entry, Plain):
            x = flat[(entry.collection, *entry.ours)]
            x = x - np.float32(entry.offset) if entry.offset else x
            found[entry.theirs] = x if entry.shape is None else x.reshape(entry.shape)
            continue
        weight = entry.outward(flat[("params", *entry.ours, entry.leaf)])
        by_u, by_v = (np.argsort(order) for order in orders(entry, weight.shape))
        spectral = {
            name: flat[path]
            for name in ("u", "v", "sigma")
            if (path := ("spectral", *entry.ours, name)) in flat
        }
        u, rows = spectral["u"][0, by_u], weight.reshape(len(weight), -1)
        v = spectral["v"][0, by_v] if "v" in spectral else unit(u @ rows)
        if layout.sn_eval == "stored" and model.sn_eval == "iterate":
            u = unit(rows @ v)
        values = [weight, u, v]
        if layout.sn == "biggan":
            values = [weight, u[None], spectral["sigma"].reshape(1)]
        if entry.bias:
            values.append(flat[("params", *entry.ours, "bias")][by_u])
        names = tensor_names(entry, layout)
        found |= {f"{entry.theirs}.{n}": x for n, x in zip(names, values, strict=True)}
    return {name: np.array(x, np.float32, order="C") for name, x in found.items()}


def unit(x: np.ndarray) -> np.ndarray:
    """The vector of length 1 in the same direction."""
    return x / max(np.linalg.norm(x), 1e-12)
