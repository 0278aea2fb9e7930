"""Interpolates between samples: latents on a great circle, classes by their tables."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Float32, UInt8

from sagan.checkpoints.restore import OpenedRun
from sagan.config.fields import replace
from sagan.config.schema import Config
from sagan.layers import evaluated_sigma
from sagan.sampling.layout import Panel, Sheet
from sagan.sampling.sampler import Variables
from sagan.visualization import checkpoint_images as drawing
from sagan.visualization.checkpoint_images import Classes, Latents

Weights = Float32[np.ndarray, "n k"]  # of classes
_ROWS = 4  # of each of the first two panels
_PARTS = np.linspace(0, 1, 9, dtype=np.float32)  # of the way from one end to the other


def draw_interpolation(opened: OpenedRun, *, seed: int, classes: Classes) -> Sheet:
    """Interpolates from latent to latent, from class to class, and both."""
    ends = drawing.latents(opened, seed, 2 * _ROWS)
    a, b = ends[::2], ends[1::2]
    labels = drawing.labels_in_turn(opened, classes, _ROWS + 1)
    one_hot = np.eye(max(opened.config.data.classes or 0, 1), dtype=np.float32)
    first, second = one_hot[labels[:-1]], one_hot[labels[1:]]
    percent = [f"{100 * part:g} %" for part in _PARTS]
    between_latents = Panel(
        f"{opened.words}: from one latent to another, same class",
        _draw_paths(opened, a, b, first, first),
        drawing.label_names(opened, labels[:-1]),
        percent,
    )
    caption = f"Interpolations of {opened.words}: between latents (great circle)"
    if labels[0] == labels[1]:
        why = "one class was asked for" if classes else drawing.UNCONDITIONAL
        return Sheet(
            [between_latents], f"{caption}.", (f"only between latents: {why}",)
        )
    names = drawing.label_names(opened, labels, longest=12)
    between_classes = Panel(
        "from one class to another, same latent",
        _draw_paths(opened, a, a, first, second),
        [f"{one} → {other}" for one, other in itertools.pairwise(names)],
        percent,
    )
    down = _steps(first[:1], second[:1])
    start, end = (np.tile(x[:1], (len(_PARTS), 1)) for x in (a, b))
    both = Panel(
        "both: from latent to latent to the right, from class to class downwards",
        _draw_paths(opened, start, end, down, down),
        [names[0], *percent[1:-1], names[1]],
        percent,
    )
    caption += ", between classes (mixed batch-norm tables), and both at once."
    return Sheet([between_latents, between_classes, both], caption)


def _draw_paths(
    opened: OpenedRun, a: Latents, b: Latents, first: Weights, second: Weights
) -> UInt8[np.ndarray, "rows columns h w c"]:
    """Each row goes from one latent and mixture of classes to another."""
    count = len(_PARTS)
    ends = (a.repeat(count, axis=0), b.repeat(count, axis=0))
    z = great_circle(*ends, np.tile(_PARTS, len(a)))
    images = draw_mixtures(opened, z, _steps(first, second))
    return images.reshape(-1, count, *images.shape[1:])


def _steps(first: np.ndarray, second: np.ndarray) -> Weights:
    """Equal steps from each row of the first to that of the second."""
    part = np.tile(_PARTS, len(first))[:, None]
    first, second = (x.repeat(len(_PARTS), axis=0) for x in (first, second))
    return (1 - part) * first + part * second


def draw_mixtures(
    opened: OpenedRun, z: Latents, weights: Weights
) -> UInt8[np.ndarray, "n h w c"]:
    """The image of each latent and mixture of the k classes.

    A class enters the generator only through the tables of its batch norms, so a
    mixture uses `weights[i] @ table`. One class with weight 1 gives the image of that
    class, bit for bit.
    """
    config, variables = without_sn_tables(opened.config, opened.variables)
    mixtures, y = np.unique(weights, axis=0, return_inverse=True)
    count = weights.shape[1]
    images = np.zeros((len(z), *[config.data.size] * 2, config.data.channels), np.uint8)
    for start in range(0, len(mixtures), count):  # as many as the tables have rows
        rows = np.eye(count, dtype=np.float32)
        some = mixtures[start : start + count]
        rows[: len(some)] = some
        here = np.flatnonzero((y >= start) & (y < start + count))
        tables = mix_tables(variables, rows)
        images[here] = drawing.draw_images(config, tables, z[here], y[here] - start)
    return images


def mix_tables(variables: Variables, weights: Float32[np.ndarray, "k k"]) -> Variables:
    """The variables with `weights @ table` for every class-conditional table."""

    def mix(path: tuple[str, ...], leaf: Array) -> Array:
        if not (path[-2].startswith("bn") and leaf.ndim == 2):
            return leaf
        # on the host: accelerators would multiply with fewer bits than float32 has
        return jnp.asarray(weights @ np.asarray(leaf))

    flat: dict[Any, Array] = flatten_dict(variables["params"])  # type: ignore
    params = {path: mix(path, leaf) for path, leaf in flat.items()}
    return {**variables, "params": unflatten_dict(params)}


def without_sn_tables(config: Config, variables: Variables) -> tuple[Config, Variables]:
    """The same generator without g.sn_tables, its tables already normalised.

    A mixture of normalised tables must have the sigma of the whole table, not its own.
    """
    if config.g.sn_tables == "none":
        return config, variables
    params: dict[Any, Array] = flatten_dict(variables["params"])  # type: ignore
    spectral: dict[Any, Array] = flatten_dict(variables["spectral"])  # type: ignore
    model = config.model
    for path in [p for p in params if p[-3:-2] and p[-3].startswith("bn")]:
        place, table = path[:-1], params.pop(path)
        stats = {p[-1]: spectral.pop(p) for p in [*spectral] if p[:-1] == place}
        matrix = table.T if path[-1] == "embedding" else table
        sigma = evaluated_sigma(matrix, stats, model)
        offset = 1.0 if place[-1] == "scale" else 0.0
        rounded = (table / sigma).astype(model.dtype).astype(jnp.float32)
        params[place] = offset + rounded
    found = {"params": unflatten_dict(params), "spectral": unflatten_dict(spectral)}
    return replace(config, {"g.sn_tables": "none"}), {**variables, **found}


def great_circle(a: Latents, b: Latents, t: Float[np.ndarray, " n"]) -> Latents:
    """Latents on the great circle from a (t = 0) to b (t = 1), in equal angles.

    Normal latents lie near a sphere of radius sqrt(z); the middle of a straight line
    has a norm that no sample has. Parallel a and b are joined by a straight line.

    Source: White 2016 (arXiv:1609.04468), section 2.1.
    """
    t = t[:, None]
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a.astype(np.float64) * b).sum(axis=1) / np.maximum(norms, 1e-12)
    angle = np.arccos(np.clip(cosine, -1, 1))[:, None]
    sine = np.sin(angle)
    parallel = sine < 1e-4
    safe = np.where(parallel, 1, sine)
    from_a = np.where(parallel, 1 - t, np.sin((1 - t) * angle) / safe)
    from_b = np.where(parallel, t, np.sin(t * angle) / safe)
    return (from_a * a + from_b * b).astype(np.float32)
