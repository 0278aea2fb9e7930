"""Random numbers of an update: latents, labels, and keys of augmentations.

They belong to the example: devices and micro-batches do not change what is drawn.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sagan.state import Game

Latents = Float[Array, "n z"]
Labels = Int[Array, " n"]
Keys = Key[Array, " n"]
Purpose = int | Int[Array, ""]

# Purposes of random numbers: the G update, the D updates 1, 2, ..., and for each of
# these its augmentations.
G_UPDATE = 0
AUGMENTATION = 2**16


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


def _spread(game: Game, drawn: Any) -> Any:
    """Random numbers, under jit each example's on the device of its image.

    Otherwise XLA makes every device compute every generated image.
    """
    if game.sharding is None:
        return drawn
    return jax.lax.with_sharding_constraint(drawn, game.sharding)
