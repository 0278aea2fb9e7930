"""One train step: D updates, then one G update. Pure; the file of the update rule.

Which statistics move when (official model.py:174-187, 272-275): every forward of the
generator in training moves its u and its batch statistics, in the D step too; the
discriminator's u moves once for each D update and is frozen in the G update. Here the
D updates come first; the official graph begins with G's.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from sagan import diagnostics
from sagan.data.pipeline import Batch
from sagan.data.pixels import to_float
from sagan.runtime.compilation import backend
from sagan.state import (
    Game,
    GANState,
    Player,
    gammas,
    learning_rate,
    lowered,
    update_ema,
)

Metrics = dict[str, Float[Array, ""]]
Images = Float[Array, "n h w c"]
Latents = Float[Array, "n z"]
Labels = Int[Array, " n"]

G_UPDATE = 0  # purposes of random numbers: the G update, and the D updates 1, 2, ...


def train_step(game: Game, state: GANState, batch: Batch) -> tuple[GANState, Metrics]:
    """config.optim.d_steps D updates and one G update.

    Args:
      game: static.
      state: before.
      batch: image uint8 [d n h w c] and label [d n]: one row for each D update; under
        pmap this device's share of the global batch, else all of it.

    Returns:
      The state after, and scalars, equal on all devices.
    """
    metrics = {
        "nonfinite/state": diagnostics.first_nonfinite(diagnostics.vitals(state))
    }
    # of a D gradient's leaves; after bad weights all leaves are bad
    first = jnp.float32(-1)
    for i in range(game.config.optim.d_steps):
        x, y = to_float(batch.image[i]), batch.label[i]
        state, d_metrics = d_step(game, state, x, y, purpose=1 + i)
        first = jnp.maximum(first, d_metrics["nonfinite/d_gradient"])
        metrics |= d_metrics | {"nonfinite/d_gradient": first}
    state, g_metrics = g_step(game, state, batch.label.shape[1])
    state = replace(state, step=state.step + 1)
    state = replace(state, ema=update_ema(game, state))
    return state, metrics | g_metrics | _watch(game, state)


def d_step(
    game: Game, state: GANState, x: Images, y: Labels, *, purpose: int
) -> tuple[GANState, Metrics]:
    """Moves the discriminator, and the statistics of both networks."""
    z, fake_y = draw(game, state.step, purpose, len(x))

    def micro(x: Images, y: Labels, z: Latents, fake_y: Labels):
        fake, g_stats = apply_g(game, state.g.params, state.g.stats, z, fake_y)
        # pairs: real and fake of one example stay on one device
        pairs, labels = _interleave(x, fake), _interleave(y, fake_y)

        def loss_fn(params: PyTree[Array]):
            variables = {"params": params, **state.d.stats}
            logits, d_stats = game.d.apply(
                variables, pairs, labels, mutable=["spectral"]
            )
            real_logits, fake_logits = logits.reshape(-1, 2).T
            loss = game.loss.discriminator(real_logits, fake_logits)
            metrics = {
                "d_loss": loss,
                "d_real": real_logits.mean(),
                "d_fake": fake_logits.mean(),
                "d_saturated": diagnostics.saturated(
                    game.loss, real_logits, fake_logits
                ),
                "real_diversity": diagnostics.moments(x),
                "fake_diversity": diagnostics.moments(fake),
            }
            return loss, (metrics, d_stats)

        grad_fn = jax.grad(loss_fn, has_aux=True)
        grads, (metrics, d_stats) = grad_fn(state.d.params)
        return grads, metrics, d_stats, g_stats

    grads, metrics, d_stats, g_stats = accumulate(game, micro, x, y, z, fake_y)
    grads, metrics = average_over_devices(game, (grads, metrics))
    for name in ("real_diversity", "fake_diversity"):
        metrics[name] = diagnostics.diversity(metrics[name])
    metrics["d_grad_norm"] = optax.tree.norm(grads)
    metrics["nonfinite/d_gradient"] = diagnostics.first_nonfinite(grads)
    factor = lowered(game.config, state.rollbacks)
    d = _update(game.d_tx, state.d, grads, d_stats, factor)
    return replace(state, d=d, g=replace(state.g, stats=g_stats)), metrics


def g_step(game: Game, state: GANState, n: int) -> tuple[GANState, Metrics]:
    """Moves the generator and its statistics; the discriminator stays as it is."""
    z, y = draw(game, state.step, G_UPDATE, n)

    def micro(z: Latents, y: Labels):
        def loss_fn(params: PyTree[Array]):
            fake, g_stats = apply_g(game, params, state.g.stats, z, y)
            logits: Any = game.d.apply(
                {"params": state.d.params, **state.d.stats}, fake, y
            )
            loss = game.loss.generator(logits)
            return loss, ({"g_loss": loss}, g_stats)

        grads, (metrics, g_stats) = jax.grad(loss_fn, has_aux=True)(state.g.params)
        return grads, metrics, g_stats

    grads, metrics, g_stats = accumulate(game, micro, z, y)
    grads, metrics = average_over_devices(game, (grads, metrics))
    metrics["g_grad_norm"] = optax.tree.norm(grads)
    metrics["nonfinite/g_gradient"] = diagnostics.first_nonfinite(grads)
    return replace(state, g=_update(game.g_tx, state.g, grads, g_stats)), metrics


def draw(
    game: Game, step: Int[Array, ""], purpose: int, n: int
) -> tuple[Latents, Labels]:
    """Latents and uniform labels of this device's n examples of the global batch.

    The numbers of global example i depend on (seed, purpose, step, i) alone, so that
    they do not depend on devices or micro-batches.
    """
    key = jax.random.key(game.config.run.seed)
    key = jax.random.fold_in(jax.random.fold_in(key, purpose), step)
    first = 0 if game.axis_name is None else jax.lax.axis_index(game.axis_name) * n

    def example(i: Int[Array, ""]) -> tuple[Float[Array, " z"], Int[Array, ""]]:
        z_key, y_key = jax.random.split(jax.random.fold_in(key, i))
        classes = game.config.data.classes or 1
        z = jax.random.normal(z_key, (game.config.g.z,))
        return z, jax.random.randint(y_key, (), 0, classes)

    drawn = jax.vmap(example)(first + jnp.arange(n))
    if game.sharding is None:
        return drawn
    # else XLA makes every device compute every generated image
    return jax.lax.with_sharding_constraint(drawn, game.sharding)


def apply_g(
    game: Game, params: PyTree[Array], stats: dict[str, Any], z: Latents, y: Labels
) -> tuple[Images, dict[str, Any]]:
    """Generated images in training mode, and the statistics that this pass moved."""
    variables = {"params": params, **stats}
    moved: Any = game.g.apply(variables, z, y, train=True, mutable=list(stats))
    return moved


def accumulate(game: Game, micro: Callable[..., Any], *batch: Array) -> Any:
    """The mean of micro(*part) over config.optim.accumulate parts of the batch.

    All parts start from the same statistics, and running averages are linear in what
    is averaged into them, so statistics as well as gradients come out as those of the
    whole batch.
    """
    parts = game.config.optim.accumulate
    if parts == 1:
        return micro(*batch)

    def split(x: Array) -> Array:
        # every device cuts its own share: no image moves between devices
        shards = game.sharding.num_devices if game.sharding else 1
        x = x.reshape(shards, parts, -1, *x.shape[1:])
        return x.swapaxes(0, 1).reshape(parts, -1, *x.shape[3:])

    def add(total: Any, part: tuple[Array, ...]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, micro(*part)), None

    split_batch = tuple(map(split, batch))
    shapes = jax.eval_shape(micro, *(x[0] for x in split_batch))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    # XLA runs convolutions in loops eight times slower on CPU
    unroll = parts if backend() == "cpu" else 1
    total, _ = jax.lax.scan(add, zeros, split_batch, unroll=unroll)
    return jax.tree.map(lambda x: x / parts, total)


def average_over_devices(game: Game, tree: Any) -> Any:
    """The mean over the devices of the mapped axis, where there is one."""
    if game.axis_name is None:
        return tree
    return jax.lax.pmean(tree, game.axis_name)


def _interleave(a: Array, b: Array) -> Array:
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _update(
    tx: optax.GradientTransformation,
    player: Player,
    grads: PyTree[Array],
    stats: dict[str, Any],
    factor: Float[Array, ""] | float = 1.0,
) -> Player:
    tx = optax.with_extra_args_support(tx)
    updates, opt_state = tx.update(
        grads, player.opt_state, player.params, factor=factor
    )
    params = optax.apply_updates(player.params, updates)
    return Player(params=params, stats=stats, opt_state=opt_state)


def _watch(game: Game, state: GANState) -> Metrics:
    """What is worth a curve beside the losses."""
    metrics = {}
    for name, player in (("g", state.g), ("d", state.d)):
        for layer, gamma in gammas(player.params).items():
            metrics[f"gamma/{name}/{layer}"] = gamma
        sigmas = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(
                player.stats["spectral"]
            )
            if path[-1].key == "sigma"
        ]
        # with the gradient norms, what tells that a state is worth keeping
        metrics[f"{name}_weight_norm"] = optax.tree.norm(player.params)
        metrics[f"sigma/{name}_max"] = jnp.stack(sigmas).max()
        metrics[f"sigma/{name}_min"] = jnp.stack(sigmas).min()
        updates = state.step * (game.config.optim.d_steps if name == "d" else 1)
        rate = learning_rate(game.config, name)(updates - 1)
        if name == "d":
            rate = rate * lowered(game.config, state.rollbacks)
        metrics[f"lr/{name}"] = jnp.asarray(rate, jnp.float32)
    return metrics
