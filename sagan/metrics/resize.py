"""Resizing for a feature network: uint8 images of any size to its own, in RGB.

Features depend on the resizing more than on most changes of a model. So each entry of
RESIZES is exactly a method by which published numbers were computed.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from sagan.metrics.interface import MetricError

Resized = Float32[Array, "n s s 3"]


def resize_tf1(images: Any, size: int) -> Resized:
    """TensorFlow 1's bilinear resize with align_corners=False; nothing is rounded.

    Output pixel i lies at i * in / size of the input, without a half-pixel offset or
    antialiasing, computed in float32; the last pixel is repeated past the edge.

    Args:
      images: uint8 [n h w c], c = 1 (the channel is tiled) or 3.
      size: Height and width of the new images.

    Source: the first operation of the 2015-12-05 graph; TensorFlow 1,
    core/kernels/resize_bilinear_op.cc.
    """
    x = check_images(images).astype(jnp.float32)
    for axis in (2, 1):  # columns first: the order decides the last bit
        low, high, part = _tf1_grid(x.shape[axis], size)
        part = jnp.asarray(part.reshape((-1, *(1,) * (3 - axis))))
        # "clip" repeats the last pixel past the edge
        below, above = (jnp.take(x, at, axis, mode="clip") for at in (low, high))
        x = below + (above - below) * part[(None,) * axis]
    return _rgb(x)


def _tf1_grid(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both neighbours of every new pixel, and its position between them."""
    place = np.arange(new, dtype=np.float32) * np.float32(old / new)
    low = place.astype(np.int32)
    return low, low + 1, place - low.astype(np.float32)


def resize_clean(images: Any, size: int) -> Resized:
    """Bicubic with antialiasing, on half-pixel centres, clipped to [0, 255].

    Equals Pillow's resize of a channel in its float mode, as two matrix products.

    Args:
      images: uint8 [n h w c], c = 1 (the channel is tiled) or 3.
      size: Height and width of the new images.

    Source: Parmar et al. 2022 (arXiv:2104.11222), and clean-fid's "clean" mode.
    """
    x = check_images(images).astype(jnp.float32)
    rows, columns = (jnp.asarray(_bicubic(old, size)) for old in x.shape[1:3])
    x = jnp.einsum("xw,nhwc->nhxc", columns, x, precision="highest")
    x = jnp.einsum("yh,nhxc->nyxc", rows, x, precision="highest")
    return _rgb(jnp.clip(x, 0, 255))


def _bicubic(old: int, new: int) -> Float32[np.ndarray, "{new} {old}"]:
    """Weights of the old pixels in each of the new ones."""
    scale = old / new
    stretch = max(scale, 1.0)  # antialiasing: the kernel grows as the image shrinks
    centre = (np.arange(new)[:, None] + 0.5) * scale
    x = np.abs(np.arange(old)[None] + 0.5 - centre) / stretch
    a = -0.5  # Pillow's
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


RESIZES: dict[str, Callable[[Any, int], Resized]] = {
    "tf1": resize_tf1,
    "clean": resize_clean,
}


def check_images(images: Any) -> Array:
    """The images as an array; MetricError unless uint8 [n h w c] with c = 1 or 3."""
    if images.dtype != np.uint8:
        raise MetricError(
            f"images of dtype {images.dtype}: features are taken of uint8 images, 0 to"
            " 255, as they would be stored"
        )
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape[1:]:
        raise MetricError(f"images of shape {shape}: must be [n h w c], c = 1 or 3")
    return jnp.asarray(images)


def _rgb(x: Float32[Array, "n s s c"]) -> Resized:
    return x if x.shape[3] == 3 else jnp.tile(x, (1, 1, 1, 3))
