"""Scalars that a step reports besides the losses: norms, NaNs, diversity, sigmas, ....

Pure, and traced with the step; training/divergence.py says which values are bad.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from sagan.config.schema import Config
from sagan.layers import FULL, spectral_normalise
from sagan.losses import GANLoss, Logits
from sagan.state import Game, GANState, Player, gammas

Metrics = dict[str, Float[Array, ""]]
Images = Float[Array, "n h w c"]

NO_SLOPE = 0.01  # of the steepest that hinge, non-saturating and Wasserstein have


class Update(NamedTuple):
    """One update of one player, averaged over micro-batches and devices.

    Attributes:
      grads: Gradient of the player's loss.
      averages: Averages over the batch: the loss and, for D, those of d_averages.
    """

    grads: PyTree
    averages: dict[str, Array]


def d_averages(
    loss: GANLoss,
    d_loss: Float[Array, ""],
    real_logits: Logits,
    fake_logits: Logits,
    real: Images,
    fake: Images,
) -> dict[str, Array]:
    """Averages over the examples of a D update: all that `report` needs of them."""
    return {
        "d_loss": d_loss,
        "d_real": real_logits.mean(),
        "d_fake": fake_logits.mean(),
        "d_saturated": saturated(loss, real_logits, fake_logits),
        "real_diversity": moments(real),
        "fake_diversity": moments(fake),
    }


def update_values(name: str, update: Update) -> dict[str, Array]:
    """All that `report` needs of a player's update: no gradient outlives its update."""
    norm = optax.tree.norm(update.grads)
    return update.averages | {
        f"{name}_grad_norm": norm,
        f"nonfinite/{name}_gradient": first_nonfinite(update.grads, norm),
    }


def report(
    game: Game,
    state: GANState,
    d_values: dict[str, Array],
    g_values: dict[str, Array],
) -> Metrics:
    """The scalars of a step; its D values are those of the last D update.

    Args:
      game: Static.
      state: State after the step.
      d_values: update_values of D, with an axis for its updates.
      g_values: update_values of G.
    """
    metrics = {name: values[-1] for name, values in d_values.items()} | g_values
    for name in ("real_diversity", "fake_diversity"):
        metrics[name] = diversity(metrics[name])
    # the first bad leaf of any update: once weights are bad, all later ones are
    metrics["nonfinite/d_gradient"] = d_values["nonfinite/d_gradient"].max()
    for name, parts in trained_parts(state).items():
        metrics[f"nonfinite/{name}_state"] = first_nonfinite(parts, sum_of_all(parts))
    d_count = state.step * game.config.optim.d_steps
    metrics["lr/g"] = jnp.asarray(game.g_lr(state.step - 1), jnp.float32)
    metrics["lr/d"] = jnp.asarray(game.d_lr(d_count - 1), jnp.float32)
    return metrics | player_scalars("g", state.g) | player_scalars("d", state.d)


def player_scalars(name: str, player: Player) -> Metrics:
    """Gammas of the attention layers, norm of the weights, and range of any sigmas."""
    metrics = {f"gamma/{name}/{k}": gamma for k, gamma in gammas(player.params).items()}
    metrics[f"{name}_weight_norm"] = optax.tree.norm(player.params)
    leaves = jax.tree_util.tree_leaves_with_path(player.stats.get("spectral"))
    sigmas = [leaf for path, leaf in leaves if path[-1].key == "sigma"]
    if not sigmas:
        return metrics
    every = jnp.stack(sigmas)
    return metrics | {
        f"sigma/{name}_max": every.max(),
        f"sigma/{name}_min": every.min(),
    }


def saturated(loss: GANLoss, real: Logits, fake: Logits) -> Float[Array, ""]:
    """Share of the logits from which the discriminator learns nothing.

    There its loss is flat: for the hinge loss where D(x) >= 1 or D(G(z)) <= -1.
    """
    slopes = jax.grad(loss.discriminator, argnums=(0, 1))(
        *jax.lax.stop_gradient((real, fake))
    )
    flat = jnp.abs(jnp.stack(slopes)) * len(real) < NO_SLOPE
    return flat.mean(dtype=jnp.float32)


def moments(images: Float[Array, "n h w c"]) -> Float[Array, "2 h w c"]:
    """Mean and mean square of every pixel, which micro-batches and devices average."""
    images = images.astype(jnp.float32)
    return jnp.stack([images.mean(axis=0), jnp.square(images).mean(axis=0)])


def diversity(moments: Float[Array, "2 h w c"]) -> Float[Array, ""]:
    """Standard deviation of a pixel over the batch, root mean square over pixels.

    Pixels are in [-1, 1], so what cancels in E[x^2] - E[x]^2 is below 1e-3 of it.
    """
    mean, mean_square = moments
    return jnp.sqrt(jnp.maximum(mean_square - jnp.square(mean), 0.0).mean())


class TrainedParts(NamedTuple):
    """A state without its counters, in the order in which a NaN propagates."""

    d: Any = None
    g: Any = None
    ema: Any = None


def trained_parts(state: GANState) -> dict[str, TrainedParts]:
    """Parts of a state that each player's update changes, by player."""
    return {"d": TrainedParts(d=state.d), "g": TrainedParts(g=state.g, ema=state.ema)}


def first_nonfinite(tree: PyTree, probe: Float[Array, ""]) -> Float[Array, ""]:
    """Index of the first leaf with a NaN or an infinity; -1 if all are finite.

    Args:
      tree: Leaves; looked at one by one only if `probe` is not finite.
      probe: A norm or a sum over all leaves: not finite if any number is not.
    """

    def search() -> Float[Array, ""]:
        bad = jnp.stack([~jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])
        return jnp.where(bad.any(), jnp.argmax(bad), -1).astype(jnp.float32)

    return jax.lax.cond(jnp.isfinite(probe), lambda: jnp.float32(-1), search)


def sum_of_all(tree: PyTree) -> Float[Array, ""]:
    """The sum of all numbers; leaves of one shape are added first, for fewer sums."""
    by_shape: dict[tuple[int, ...], Array] = {}
    for leaf in jax.tree.leaves(tree):
        by_shape[leaf.shape] = by_shape.get(leaf.shape, 0) + leaf
    return jnp.stack([total.sum() for total in by_shape.values()]).sum()


def sigma_errors(config: Config, state: GANState) -> dict[str, Float[Array, ""]]:
    """Relative error of spectral normalisation's estimate of each top singular value.

    true / estimate - 1 for every normalised weight, named sigma_error/g/block1/conv1,
    and the largest of each player, sigma_error/g_max. The estimate is that of the next
    forward pass: one power iteration from the stored u on the current weights (the
    stored sigma is older than the last update). But for rounding, it never exceeds the
    true value. A network without spectral normalisation has none of these.
    """
    errors, model = {}, config.model
    for name, player in (("g", state.g), ("d", state.d)):
        if "spectral" not in player.stats:
            continue
        weights = _normalised(player.params, player.stats["spectral"], name)
        mine = {}
        for path, (matrix, u) in weights.items():
            estimate, _ = spectral_normalise(
                matrix, u, eps=model.sn_eps, detach=True, clamp=model.sn_clamp
            )
            mine[f"sigma_error/{path}"] = top_singular_value(matrix) / estimate - 1
        errors |= mine | {f"sigma_error/{name}_max": jnp.stack([*mine.values()]).max()}
    return errors


def top_singular_value(w: Float[Array, "rows out"]) -> Float[Array, ""]:
    """Largest singular value of w: a root of w^T w's or w w^T's largest eigenvalue.

    The smaller of the two is used. Squaring costs the smallest singular values their
    float32 precision, but not the largest.
    """
    w = jnp.where(jnp.isfinite(w), w, 0.0)  # eigenvalue routines need not end on NaN
    w = w if w.shape[0] >= w.shape[1] else w.T
    gram = jnp.dot(w.T, w, precision=FULL)
    return jnp.sqrt(jnp.linalg.eigvalsh(gram)[-1])


def _normalised(
    params: Any, spectral: Any, path: str
) -> dict[str, tuple[Float[Array, "rows out"], Float[Array, "1 out"]]]:
    """Matrix and u of every layer with a `spectral` collection, by layer path."""
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
