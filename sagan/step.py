"""One train step: D updates, then one G update. Pure; the update rule is here.

Which statistics move when (official model.py:174-187, 272-275): every forward pass of
the generator in training moves its u and its batch statistics, in the D step too; the
discriminator's u moves once for each D update and is frozen in the G update. Here the
D updates come first; the official graph begins with G's.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from sagan import diagnostics, regularisers
from sagan.augment import augment
from sagan.data.pipeline import Batch
from sagan.data.pixels import to_float
from sagan.diagnostics import Metrics, Update
from sagan.discriminator import frozen_layers, without_gradients
from sagan.runtime.compilation import is_for_cpu
from sagan.state import Game, GANState, Player, update_ema

Images = Float[Array, "n h w c"]
Latents = Float[Array, "n z"]
Labels = Int[Array, " n"]
Keys = Key[Array, " n"]
Purpose = int | Int[Array, ""]

# Purposes of random numbers: the G update, the D updates 1, 2, ..., and for each of
# these its augmentations.
G_UPDATE = 0
AUGMENTATION = 2**16


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
    before, d_steps = state, game.config.optim.d_steps

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
    return state, diagnostics.report(game, before, state, d_values, g_values)


@jax.named_scope("d_step")  # for profiles, and planning/duration.py
def d_step(
    game: Game, state: GANState, x: Images, y: Labels, *, purpose: Purpose
) -> tuple[GANState, Update]:
    """Moves the discriminator, its logits' averages, and both networks' statistics."""
    z, fake_y = draw_latents(game, state.step, purpose, len(x))
    keys = augmentation_keys(game, state.step, purpose, len(x))

    def micro(x: Images, y: Labels, z: Latents, fake_y: Labels, keys: Keys | None):
        fake, g_stats = apply_g(game, state.g.params, state.g.stats, z, fake_y)
        seen = regularisers.views(game.config, x, fake, keys)
        # interleaved: all images of an example stay on one device
        images = _interleave(*seen.values())
        labels = _interleave(*(y if "real" in view else fake_y for view in seen))

        def loss_fn(params: PyTree[Array]):
            params = without_gradients(params, frozen_layers(game.config))
            variables = {"params": params, **state.d.stats}
            logits, d_stats = game.d.apply(
                variables, images, labels, mutable=["spectral"]
            )
            by_view = dict(zip(seen, logits.reshape(-1, len(seen)).T, strict=True))
            real, fake_logits = by_view["real"], by_view["fake"]
            loss = game.loss.discriminator(real, fake_logits)
            shown = diagnostics.d_averages(game.loss, loss, real, fake_logits, x, fake)

            def logits_of(x: Images) -> Any:
                return game.d.apply(variables, x, y)

            now = game.config.reg, state.step, state.lecam
            penalties = regularisers.penalties(*now, by_view, logits_of, seen["real"])
            for name, (weight, value) in penalties.items():
                loss += weight * value
                shown[f"reg/{name}"] = value
            return loss, (shown, d_stats)

        grads, (shown, d_stats) = jax.grad(loss_fn, has_aux=True)(state.d.params)
        return Update(grads, shown), d_stats, g_stats

    update, d_stats, g_stats = accumulate(game, micro, x, y, z, fake_y, keys)
    update = average_over_devices(game, update)
    d = _apply_update(game.d_tx, state.d, update.grads, d_stats)
    logits = update.averages["d_real"], update.averages["d_fake"]
    lecam = regularisers.moved(game.config.reg, state.step, state.lecam, *logits)
    g = replace(state.g, stats=g_stats)
    return replace(state, d=d, g=g, lecam=lecam), update


@jax.named_scope("g_step")
def g_step(game: Game, state: GANState, n: int) -> tuple[GANState, Update]:
    """Moves the generator and its statistics; the discriminator stays as it is."""
    z, y = draw_latents(game, state.step, G_UPDATE, n)
    keys = augmentation_keys(game, state.step, G_UPDATE, n)
    policy = game.config.augment.policy

    def micro(z: Latents, y: Labels, keys: Keys | None):
        def loss_fn(params: PyTree[Array]):
            fake, g_stats = apply_g(game, params, state.g.stats, z, y)
            if keys is not None:
                fake = augment(policy, keys, fake)
            variables = {"params": state.d.params, **state.d.stats}
            logits: Any = game.d.apply(variables, fake, y)
            loss = game.loss.generator(logits)
            return loss, ({"g_loss": loss}, g_stats)

        grads, (shown, g_stats) = jax.grad(loss_fn, has_aux=True)(state.g.params)
        return Update(grads, shown), g_stats

    update, g_stats = accumulate(game, micro, z, y, keys)
    update = average_over_devices(game, update)
    g = _apply_update(game.g_tx, state.g, update.grads, g_stats)
    return replace(state, g=g), update


def draw_latents(
    game: Game, step: Int[Array, ""], purpose: Purpose, n: int
) -> tuple[Latents, Labels]:
    """Latents and uniform labels for this device's n examples of the global batch."""

    def example(key: Key[Array, ""]) -> tuple[Float[Array, " z"], Int[Array, ""]]:
        z_key, y_key = jax.random.split(key)
        classes = game.config.data.classes or 1
        z = jax.random.normal(z_key, (game.config.g.z,))
        return z, jax.random.randint(y_key, (), 0, classes)

    return _spread(game, jax.vmap(example)(example_keys(game, step, purpose, n)))


def augmentation_keys(
    game: Game, step: Int[Array, ""], purpose: Purpose, n: int
) -> Keys | None:
    """Keys for the augmentations of an update; None if there are none."""
    reg = game.config.reg
    if not (game.config.augment.policy or reg.consistency_real or reg.consistency_fake):
        return None
    return _spread(game, example_keys(game, step, AUGMENTATION + purpose, n))


def example_keys(game: Game, step: Int[Array, ""], purpose: Purpose, n: int) -> Keys:
    """A key for each of this device's n examples of the global batch.

    That of global example i depends on (seed, purpose, step, i) alone, so that devices
    and micro-batches do not change what is drawn.
    """
    key = jax.random.key(game.config.run.seed)
    key = jax.random.fold_in(jax.random.fold_in(key, purpose), step)
    first = 0 if game.axis_name is None else jax.lax.axis_index(game.axis_name) * n
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(n))


def apply_g(
    game: Game, params: PyTree[Array], stats: dict[str, Any], z: Latents, y: Labels
) -> tuple[Images, dict[str, Any]]:
    """Generated images in training mode, and the statistics that this pass moved."""
    variables = {"params": params, **stats}
    moved: Any = game.g.apply(variables, z, y, train=True, mutable=list(stats))
    return moved


def accumulate(game: Game, micro: Callable[..., Any], *batch: Array | None) -> Any:
    """Averages micro(*part) over config.optim.accumulate parts of the batch.

    All parts start from the same statistics, and running averages are linear in the
    batch's own, so statistics as well as gradients equal those of the whole batch.
    """
    parts = game.config.optim.accumulate
    if parts == 1:
        return micro(*batch)

    def split(x: Array) -> Array:
        # every device cuts its own share: no image moves between devices
        shards = game.sharding.num_devices if game.sharding else 1
        x = x.reshape(shards, parts, -1, *x.shape[1:])
        return x.swapaxes(0, 1).reshape(parts, -1, *x.shape[3:])

    def add(total: Any, part: tuple[Array | None, ...]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, micro(*part)), None

    split_batch = jax.tree.map(split, batch)
    shapes = jax.eval_shape(micro, *jax.tree.map(lambda x: x[0], split_batch))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    unroll = loop_unroll(game, parts)
    total, _ = jax.lax.scan(add, zeros, split_batch, unroll=unroll)
    return jax.tree.map(lambda x: x / parts, total)


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


def _spread(game: Game, drawn: Any) -> Any:
    """Random numbers, under jit each example's on the device of its image.

    Otherwise XLA makes every device compute every generated image.
    """
    if game.sharding is None:
        return drawn
    return jax.lax.with_sharding_constraint(drawn, game.sharding)


def _interleave(*parts: Array) -> Array:
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def _apply_update(
    tx: optax.GradientTransformation,
    player: Player,
    grads: PyTree[Array],
    stats: dict[str, Any],
) -> Player:
    updates, opt_state = tx.update(grads, player.opt_state, player.params)
    params = optax.apply_updates(player.params, updates)
    return Player(params=params, stats=stats, opt_state=opt_state)
