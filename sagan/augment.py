"""Differentiable augmentation of what the discriminator sees (DiffAugment).

Each function changes one image [h w c] in [-1, 1] by random numbers from its key alone,
and gradients flow through it. To add one, enter it in AUGMENTATIONS.

Source: Zhao et al. 2020 (arXiv:2006.10738), with the ranges of its BigGAN code. Its
authors recommend color,translation for most data; cutout's grey squares can appear in
the samples, above all with larger data sets (mit-han-lab/data-efficient-gans#84).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sagan.config.schema import ConfigError
from sagan.layers import FULL

Image = Float[Array, "h w c"]
Images = Float[Array, "n h w c"]


def color(key: Key[Array, ""], x: Image) -> Image:
    """Adds up to 1/2; scales the distance to grey by 0 to 2, to the mean by 1/2 to 3/2.

    In this order: brightness, saturation, contrast. Values may leave [-1, 1].
    """
    brightness, saturation, contrast = jax.random.uniform(key, (3,))
    x = x + brightness - 0.5
    grey = x.mean(axis=2, keepdims=True)
    x = grey + 2 * saturation * (x - grey)
    return x.mean() + (contrast + 0.5) * (x - x.mean())


def translation(key: Key[Array, ""], x: Image) -> Image:
    """Moves by up to an eighth of the height and width; zeros, mid-grey, come in."""
    for axis, axis_key in enumerate(jax.random.split(key)):
        size = x.shape[axis]
        most = (size + 4) // 8
        shift = jax.random.randint(axis_key, (), -most, most + 1)
        # as a matrix product: gathers and their gradients are slow on TPUs and CPUs
        positions = jnp.arange(size)
        moves = (positions[:, None] - positions[None] == shift).astype(x.dtype)
        x = jnp.moveaxis(jnp.tensordot(moves, x, (1, axis), precision=FULL), 0, axis)
    return x


def cutout(key: Key[Array, ""], x: Image) -> Image:
    """Sets a square of half the size, or its part inside the image, to zero."""
    kept = jnp.zeros(x.shape[:2], bool)
    for axis, axis_key in enumerate(jax.random.split(key)):
        size = x.shape[axis]
        length = (size + 1) // 2
        centre = jax.random.randint(axis_key, (), 0, size + 1 - length % 2)
        offset = jnp.arange(size) - (centre - length // 2)
        outside = (offset < 0) | (offset >= length)
        kept |= jnp.expand_dims(outside, 1 - axis)
    return jnp.where(kept[:, :, None], x, 0)


AUGMENTATIONS: dict[str, Callable[[Key[Array, ""], Image], Image]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}


def check_policy(field: str, policy: str) -> None:
    """Raises a ConfigError unless a policy names augmentations, each at most once."""
    names = policy.split(",") if policy else []
    if set(names) - set(AUGMENTATIONS) or len(set(names)) < len(names):
        raise ConfigError(
            f"{field} = {policy!r}: must be empty, or any of"
            f" {', '.join(AUGMENTATIONS)}, separated by commas"
        )


def augment(policy: str, keys: Key[Array, " n"], x: Images) -> Images:
    """The images after each augmentation that the policy names, in its order.

    Args:
      policy: Names in AUGMENTATIONS, separated by commas; empty: none.
      keys: One for each image.
      x: The images.
    """
    for i, name in enumerate(policy.split(",") if policy else ()):
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        x = jax.vmap(AUGMENTATIONS[name])(own, x)
    return x
