"""What tells, on the devices, whether training goes well. Pure; judged in doctor.py."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sagan.config.schema import Config
from sagan.layers import spectral_normalise
from sagan.losses import GANLoss, Logits
from sagan.state import GANState

NO_SLOPE = 0.01  # of the steepest that hinge, non-saturating and Wasserstein have


def saturated(loss: GANLoss, real: Logits, fake: Logits) -> Float[Array, ""]:
    """The share of logits from which the discriminator learns nothing.

    Those at which its loss is flat: for the hinge loss D(x) >= 1 and D(G(z)) <= -1.
    """
    slopes = jax.grad(loss.discriminator, argnums=(0, 1))(
        *jax.lax.stop_gradient((real, fake))
    )
    flat = jnp.abs(jnp.stack(slopes)) * len(real) < NO_SLOPE
    return flat.mean(dtype=jnp.float32)


def moments(images: Float[Array, "n h w c"]) -> Float[Array, "2 h w c"]:
    """Mean and mean square of every pixel: averages over devices and micro-batches."""
    images = images.astype(jnp.float32)
    return jnp.stack([images.mean(axis=0), jnp.square(images).mean(axis=0)])


def diversity(moments: Float[Array, "2 h w c"]) -> Float[Array, ""]:
    """Standard deviation of a pixel over the batch, root mean square over pixels.

    Pixels are in [-1, 1], so what cancels in E[x^2] - E[x]^2 is below 1e-3 of it.
    """
    mean, mean_square = moments
    return jnp.sqrt(jnp.maximum(mean_square - jnp.square(mean), 0.0).mean())


class Vitals(NamedTuple):
    """The parts of a state in the order in which what is not finite goes through it."""

    d: Any
    g: Any
    ema: Any


def vitals(state: GANState) -> Vitals:
    """All of a state but its counters."""
    return Vitals(state.d, state.g, state.ema)


def first_nonfinite(tree: PyTree) -> Float[Array, ""]:
    """The number of the first leaf with a value that is not finite; -1: none has."""
    bad = jnp.stack([~jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])
    return jnp.where(bad.any(), jnp.argmax(bad), -1).astype(jnp.float32)


def sigma_errors(config: Config, state: GANState) -> dict[str, Float[Array, ""]]:
    """By how much each weight's top singular value exceeds what it is divided by.

    true / estimate - 1 for every spectrally normalised weight, as
    sigma_error/g/block1/conv1, and the largest of each player, sigma_error/g_max. The
    estimate is that of the next forward pass: one power iteration from the stored u on
    the weights of now (the stored sigma is older than the last update). It is never
    above the true value, but for rounding.
    """
    errors = {}
    for name, player in (("g", state.g), ("d", state.d)):
        weights = _normalised(player.params, player.stats["spectral"], name)
        mine = {}
        for path, (matrix, u) in weights.items():
            estimate, _ = spectral_normalise(
                matrix, u, eps=config.model.sn_eps, detach=True
            )
            mine[f"sigma_error/{path}"] = top_singular_value(matrix) / estimate - 1
        errors |= mine | {f"sigma_error/{name}_max": jnp.stack([*mine.values()]).max()}
    return errors


def top_singular_value(w: Float[Array, "rows out"]) -> Float[Array, ""]:
    """The root of the top singular value of the smaller of w^T w and w w^T.

    These are symmetric, so their singular values are their eigenvalues: those of w,
    squared. The largest keeps float32's precision, unlike the smallest.
    """
    w = jnp.where(jnp.isfinite(w), w, 0.0)  # eigenvalue routines need not end on NaN
    w = w if w.shape[0] >= w.shape[1] else w.T
    gram = jnp.dot(w.T, w, precision="highest")
    return jnp.sqrt(jnp.linalg.eigvalsh(gram)[-1])


def _normalised(
    params: Any, spectral: Any, path: str
) -> dict[str, tuple[Float[Array, "rows out"], Float[Array, "1 out"]]]:
    """The matrix and u of every layer with a `spectral` collection, by layer path."""
    if "u" not in spectral:
        inner = [
            _normalised(params[name], spectral[name], f"{path}/{name}")
            for name in spectral
        ]
        return {name: pair for layers in inner for name, pair in layers.items()}
    if "embedding" in params:  # normalised as its transpose: layers.SNEmbed
        return {path: (params["embedding"].T, spectral["u"])}
    kernel = params["kernel"]
    return {path: (kernel.reshape(-1, kernel.shape[-1]), spectral["u"])}
