"""Convolutions of the residual blocks, plain and in an exact cheaper form.

Images are NHWC, kernels HWIO of 1x1 or 3x3, stride 1, SAME padding, no bias. With
`fast` a function computes the same values and gradients, to rounding, with fewer
multiplications; which form does so is chosen per backend when JAX traces. Measured by
`benchmarks/conv.py`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sagan.runtime.compilation import backend

Images = Float[Array, "n h w c"]
Kernel = Float[Array, "k k c f"]
Padding = tuple[tuple[int, int], tuple[int, int]]
SAME: Padding = ((1, 1), (1, 1))


def upsample(x: Images) -> Float[Array, "n h2 w2 c"]:
    """Nearest-neighbour upsampling by two."""
    n, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c))
    return x.reshape(n, 2 * h, 2 * w, c)


def downsample(x: Images) -> Float[Array, "n h2 w2 c"]:
    """2x2 mean pooling; an odd last row or column is dropped."""
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def conv(x: Images, kernel: Kernel, *, fast: bool) -> Float[Array, "n h w f"]:
    """Convolves at stride 1 with SAME padding."""
    kernel = kernel.astype(x.dtype)
    pad = kernel.shape[0] // 2
    if not fast or not _on_cpu(x):
        return _correlate(x, kernel, ((pad, pad), (pad, pad)))
    if pad == 0:
        return _dot(x, kernel[0, 0])
    # Measured and left out: the weight gradient as a plain convolution (0.97 to 1.05 of
    # the time), as nine tap products or im2col (slower), Winograd's F(2, 3) (0.9 with
    # 256 channels, to 3 times slower elsewhere).
    if x.shape[3] <= 4 and min(x.shape[1:3]) <= 32:  # 0.6 of the time
        return _im2col(x, kernel)
    return _correlate(x, kernel, SAME)


def upsample_conv(
    x: Images, kernel: Kernel, *, fast: bool
) -> Float[Array, "n h2 w2 f"]:
    """Nearest-neighbour upsampling by two, then `conv`."""
    if fast and kernel.shape[0] == 1:
        return upsample(conv(x, kernel, fast=True))
    if fast and (_on_cpu(x) or min(x.shape[1:3]) >= 8):
        return _upsample_by_parity(x, kernel)
    return conv(upsample(x), kernel, fast=fast)


def conv_downsample(
    x: Images, kernel: Kernel, *, fast: bool
) -> Float[Array, "n h2 w2 f"]:
    """`conv`, then 2x2 mean pooling."""
    even = x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0
    if fast and kernel.shape[0] == 1:
        return conv(downsample(x), kernel, fast=True)
    if fast and even and _on_cpu(x):
        # below 32 pixels XLA's own gradient is faster, 0.65 of the time at 8
        small = min(x.shape[1:3]) < 32
        form = _downsample_by_products if small else _conv_downsample_cpu
        return form(x, kernel.astype(x.dtype))
    if fast and even and min(x.shape[1:3]) > 8:
        return _correlate(x, _widen(kernel).astype(x.dtype), SAME, stride=2)
    return downsample(conv(x, kernel, fast=fast))


def _on_cpu(x: Array) -> bool:
    return backend() == "cpu" and x.dtype == jnp.float32


def _correlate(x: Array, kernel: Array, padding: Padding, stride: int = 1) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _dot(x: Array, matrix: Array) -> Array:
    return jnp.einsum("nhwc,cf->nhwf", x, matrix)


def _flip(kernel: Array) -> Array:
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def _im2col(x: Array, kernel: Array) -> Array:
    _, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), *SAME, (0, 0)))
    taps = [x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return _dot(jnp.concatenate(taps, axis=3), kernel.reshape(9 * c, -1))


def _upsample_by_parity(x: Array, kernel: Array) -> Array:
    """Four 2x2 convolutions, one for each parity of the output's row and column."""

    def fold(kernel: Array, axis: int) -> tuple[Array, Array]:
        a, b, c = jnp.split(kernel, 3, axis=axis)
        even, odd = [a, b + c], [a + b, c]
        return jnp.concatenate(even, axis), jnp.concatenate(odd, axis)

    return _interleave(
        [
            [
                _correlate(x, both.astype(x.dtype), ((1 - i, i), (1 - j, j)))
                for j, both in enumerate(fold(rows, 1))
            ]
            for i, rows in enumerate(fold(kernel.astype(jnp.float32), 0))
        ]
    )


def _interleave(parts: list[list[Array]]) -> Array:
    n, h, w, c = parts[0][0].shape
    rows = [jnp.stack(row, axis=3) for row in parts]
    return jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, c)


def _widen(kernel: Array) -> Array:
    """The 4x4 kernel that, at stride 2, convolves and takes the mean."""
    kernel = kernel.astype(jnp.float32)
    pad = partial(jnp.pad, kernel)
    shifts = [
        pad(((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1)
    ]
    return sum(shifts[1:], shifts[0]) / 4


# On the CPU, nine matrix products on the pooled grid, where the 4x4 kernel has sixteen
# taps and the plain form 36. In one dimension, with the kernel a b c and s = a + b + c,
# convolving then taking the mean gives half of
#   s (x[2i] + x[2i+1]) + a (x[2i-1] - x[2i+1]) + c (x[2i+2] - x[2i]).
# Its transpose, upsampling then convolving, is not faster so than by parity.
@jax.custom_vjp
def _conv_downsample_cpu(x: Array, kernel: Array) -> Array:
    return _downsample_by_products(x, kernel)


def _conv_downsample_cpu_backward(saved, dy):
    x, kernel = saved
    dx = _upsample_by_parity(dy, _flip(kernel) / 4)
    return dx, jax.vjp(partial(_downsample_by_products, x), kernel)[1](dy)[0]


_conv_downsample_cpu.defvjp(
    lambda x, kernel: (_downsample_by_products(x, kernel), (x, kernel)),
    _conv_downsample_cpu_backward,
)


def _downsample_by_products(x: Array, kernel: Array) -> Array:
    def images(x: Array, axis: int) -> tuple[Array, Array, Array]:
        half = x.shape[axis] // 2
        pairs = x.reshape(*x.shape[:axis], half, 2, *x.shape[axis + 1 :])
        even, odd = (lax.index_in_dim(pairs, i, axis + 1, False) for i in (0, 1))
        edge = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        before = lax.slice_in_dim(jnp.pad(odd, edge), 0, half, axis=axis)
        after = lax.slice_in_dim(jnp.pad(even, edge), 2, half + 2, axis=axis)
        return before - odd, even + odd, after - even

    def kernels(kernel: Array) -> tuple[Array, Array, Array]:
        return kernel[0], kernel.sum(0), kernel[2]

    products = [
        _dot(image, matrix)
        for rows, row_kernels in zip(images(x, 1), kernels(kernel / 4), strict=True)
        for image, matrix in zip(images(rows, 2), kernels(row_kernels), strict=True)
    ]
    return sum(products[1:], products[0])
