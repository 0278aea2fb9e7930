"""One train step: D updates, then one G update. Pure; the update rule is here.

Which statistics move when is config.rule. By default (official model.py:174-187,
272-275) every forward pass of the generator in training moves its u and its batch
statistics, in the D step too; the discriminator's u moves once for each D update and is
frozen in the G update. Here the D updates come first; the official graph begins with
G's. The rules of others, by the fields that differ from the default:

                            StudioGAN  MMGeneration  BigGAN-PyTorch
  d_passes                  apart      apart         together
  g_step_moves_d            True       True          True
  d_step_moves_averages     False      True          True
  sequential_micro_batches  -          -             True

and all three have g.bn_unbiased, as PyTorch has no other. A pass always computes with
what its power iteration gives; the rule says whose result stays.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from sagan import diagnostics, regularisers
from sagan.augment import augment
from sagan.data.pipeline import Batch
from sagan.data.pixels import to_float
from sagan.diagnostics import Metrics, Update
from sagan.discriminator import frozen_layers, without_gradients
from sagan.latents import (
    G_UPDATE,
    Keys,
    Labels,
    Latents,
    Purpose,
    augmentation_keys,
    draw_latents,
)
from sagan.losses import Logits
from sagan.runtime.compilation import is_for_cpu
from sagan.state import Game, GANState, Player, update_ema

Images = Float[Array, "n h w c"]
Stats = dict[str, Any]  # collections of a player, or of both by name


def train_step(game: Game, state: GANState, batch: Batch) -> tuple[GANState, Metrics]:
    """Makes config.optim.d_steps D updates and one G update.

    Args:
      game: Static.
      state: The state before.
      batch: Images, uint8 [d n h w c], and labels [d n]: one row for each D update.
        Under pmap this device's share of the global batch, else all of it.

    Returns:
      The state after, and scalars that are equal on all devices.
    """
    d_steps = game.config.optim.d_steps

    def update_d(state: GANState, given: tuple[Array, Array, Array]) -> Any:
        image, y, purpose = given
        state, update = d_step(game, state, to_float(image), y, purpose=purpose)
        return state, diagnostics.update_values("d", update)

    image, label = jnp.asarray(batch.image), jnp.asarray(batch.label)
    given = image, label, 1 + jnp.arange(d_steps)
    unroll = loop_unroll(game, d_steps)
    state, d_values = jax.lax.scan(update_d, state, given, unroll=unroll)
    state, g_update = g_step(game, state, label.shape[1])
    g_values = diagnostics.update_values("g", g_update)
    state = replace(state, step=state.step + 1)
    state = replace(state, ema=update_ema(game, state))
    return state, diagnostics.report(game, state, d_values, g_values)


@jax.named_scope("d_step")  # for profiles, and planning/duration.py
def d_step(
    game: Game, state: GANState, x: Images, y: Labels, *, purpose: Purpose
) -> tuple[GANState, Update]:
    """Moves the discriminator, its logits' averages, and both networks' statistics."""
    z, fake_y = draw_latents(game, state.step, purpose, len(x))
    keys = augmentation_keys(game, state.step, purpose, len(x))

    def micro(
        stats: Stats, x: Images, y: Labels, z: Latents, fake_y: Labels, k: Keys | None
    ):
        fake, g_stats = apply_g(game, state.g.params, stats["g"], z, fake_y)
        if not game.config.rule.d_step_moves_averages:
            g_stats = {**g_stats, "batch_stats": stats["g"]["batch_stats"]}
        seen = regularisers.views(game.config, x, fake, k)
        labels = {view: y if "real" in view else fake_y for view in seen}

        def loss_fn(params: PyTree[Array]):
            params = without_gradients(params, frozen_layers(game.config))
            by_view, d_stats = judge(game, params, stats["d"], seen, labels)
            real, fake_logits = by_view["real"], by_view["fake"]
            loss = game.loss.discriminator(real, fake_logits)
            shown = diagnostics.d_averages(game.loss, loss, real, fake_logits, x, fake)

            def logits_of(x: Images) -> Any:
                return apply_d(game, params, stats["d"], x, y)[0]

            now = game.config.reg, state.step, state.lecam
            penalties = regularisers.penalties(*now, by_view, logits_of, seen["real"])
            for name, (weight, value) in penalties.items():
                loss += weight * value
                shown[f"reg/{name}"] = value
            return loss, (shown, d_stats)

        grads, (shown, d_stats) = jax.grad(loss_fn, has_aux=True)(state.d.params)
        return Update(grads, shown), {"g": g_stats, "d": d_stats}

    before = {"g": state.g.stats, "d": state.d.stats}
    update, stats = accumulate(game, micro, before, x, y, z, fake_y, keys)
    update = average_over_devices(game, update)
    d = _apply_update(game.d_tx, state.d, update.grads, stats["d"])
    logits = update.averages["d_real"], update.averages["d_fake"]
    lecam = regularisers.moved(game.config.reg, state.step, state.lecam, *logits)
    g = replace(state.g, stats=stats["g"])
    return replace(state, d=d, g=g, lecam=lecam), update


@jax.named_scope("g_step")
def g_step(game: Game, state: GANState, n: int) -> tuple[GANState, Update]:
    """Moves the generator and its statistics; of D at most the u, by config.rule."""
    z, y = draw_latents(game, state.step, G_UPDATE, n)
    keys = augmentation_keys(game, state.step, G_UPDATE, n)
    policy, moves_d = game.config.augment.policy, game.config.rule.g_step_moves_d

    def micro(stats: Stats, z: Latents, y: Labels, keys: Keys | None):
        def loss_fn(params: PyTree[Array]):
            fake, g_stats = apply_g(game, params, stats["g"], z, y)
            if keys is not None:
                fake = augment(policy, keys, fake)
            logits, d_stats = apply_d(game, state.d.params, stats["d"], fake, y)
            loss = game.loss.generator(logits)
            moved = {"g": g_stats, "d": d_stats} if moves_d else {"g": g_stats}
            return loss, ({"g_loss": loss}, moved)

        grads, (shown, moved) = jax.grad(loss_fn, has_aux=True)(state.g.params)
        return Update(grads, shown), moved

    before = {"g": state.g.stats, "d": state.d.stats}
    update, moved = accumulate(game, micro, before, z, y, keys)
    update = average_over_devices(game, update)
    g = _apply_update(game.g_tx, state.g, update.grads, moved["g"])
    d = replace(state.d, stats=moved["d"]) if moves_d else state.d
    return replace(state, g=g, d=d), update


def apply_g(
    game: Game, params: PyTree[Array], stats: Stats, z: Latents, y: Labels
) -> tuple[Images, Stats]:
    """Generated images in training mode, and the statistics that this pass moved."""
    variables = {"params": params, **stats}
    moved: Any = game.g.apply(variables, z, y, train=True, mutable=list(stats))
    return moved


def apply_d(
    game: Game, params: PyTree[Array], stats: Stats, x: Images, y: Labels
) -> tuple[Logits, Stats]:
    """Logits in training mode, and the statistics that this pass moved."""
    variables = {"params": params, **stats}
    moved: Any = game.d.apply(variables, x, y, mutable=["spectral"])
    return moved


def judge(
    game: Game,
    params: PyTree[Array],
    stats: Stats,
    seen: Mapping[str, Images],
    labels: Mapping[str, Labels],
) -> tuple[dict[str, Logits], Stats]:
    """D's logits of all that it sees in its update, and the statistics after that."""
    if game.config.rule.d_passes == "apart":
        logits = {}
        for view, images in seen.items():
            logits[view], stats = apply_d(game, params, stats, images, labels[view])
        return logits, stats
    # interleaved: all images of an example stay on one device
    images, y = _interleave(*seen.values()), _interleave(*labels.values())
    together, stats = apply_d(game, params, stats, images, y)
    return dict(zip(seen, together.reshape(-1, len(seen)).T, strict=True)), stats


def accumulate(
    game: Game, micro: Callable[..., Any], stats: Stats, *batch: Array | None
) -> tuple[Update, Stats]:
    """Averages micro(stats, *part) over config.optim.accumulate parts of the batch.

    All parts start from the same statistics, and running averages are linear in the
    batch's own, so statistics as well as gradients equal those of the whole batch. With
    rule.sequential_micro_batches each part starts from the statistics that the one
    before it has moved.

    Returns:
      The update, and the statistics that micro moves, by player.
    """
    parts = game.config.optim.accumulate
    sequential = game.config.rule.sequential_micro_batches
    if parts == 1:
        return micro(stats, *batch)

    def split(x: Array) -> Array:
        # every device cuts its own share: no image moves between devices
        shards = game.sharding.num_devices if game.sharding else 1
        x = x.reshape(shards, parts, -1, *x.shape[1:])
        return x.swapaxes(0, 1).reshape(parts, -1, *x.shape[3:])

    def add(total: Any, part: tuple[Array | None, ...]) -> tuple[Any, None]:
        if not sequential:
            return jax.tree.map(jnp.add, total, micro(stats, *part)), None
        update, moved = micro({**stats, **total[1]}, *part)
        return (jax.tree.map(jnp.add, total[0], update), moved), None

    split_batch = jax.tree.map(split, batch)
    shapes = jax.eval_shape(micro, stats, *jax.tree.map(lambda x: x[0], split_batch))
    first = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    if sequential:
        first = first[0], {player: stats[player] for player in first[1]}
    unroll = loop_unroll(game, parts)
    (update, moved), _ = jax.lax.scan(add, first, split_batch, unroll=unroll)
    mean = jax.tree.map(lambda x: x / parts, (update, moved))
    return mean[0], moved if sequential else mean[1]


def loop_unroll(game: Game, count: int) -> int:
    """The `unroll` of a scan of `count` updates: a loop on accelerators, if several.

    XLA runs convolutions in loops eight times slower on CPU.
    """
    is_loop = count > 1 and not is_for_cpu(game.config.model.target)
    return 1 if is_loop else count + 1  # with `count` a single one would be a loop


def average_over_devices(game: Game, tree: Any) -> Any:
    """The mean over the devices of the mapped axis, if there is one."""
    if game.axis_name is None:
        return tree
    return jax.lax.pmean(tree, game.axis_name)


def _interleave(*parts: Array) -> Array:
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def _apply_update(
    tx: optax.GradientTransformation,
    player: Player,
    grads: PyTree[Array],
    stats: Stats,
) -> Player:
    updates, opt_state = tx.update(grads, player.opt_state, player.params)
    params = optax.apply_updates(player.params, updates)
    return Player(params=params, stats=stats, opt_state=opt_state)
