"""Conversion between stored pixels, uint8, and the networks' floats."""

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8


@overload
def to_float(
    image: UInt8[np.ndarray, "*n h w c"],
) -> Float32[np.ndarray, "*n h w c"]: ...


@overload
def to_float(
    image: UInt8[jax.Array, "*n h w c"],
) -> Float32[jax.Array, "*n h w c"]: ...


def to_float(image):
    """Converts [0, 255] to [-1, 1]: x * (2 / 255) - 1.

    Source: official utils_ori.py:237.
    """
    return image.astype(np.float32) * (2 / 255) - 1


def to_uint8(x: Float[Array, "*n h w c"]) -> UInt8[Array, "*n h w c"]:
    """Converts [-1, 1] to [0, 255], rounded: the inverse of to_float."""
    return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)
