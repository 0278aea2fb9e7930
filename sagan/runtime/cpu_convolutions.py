"""Forms of the resampling convolutions that only XLA's CPU backend gains from.

Images are NHWC, kernels 3x3 HWIO. Each form gives the values and gradients of the plain
form, to rounding. Measured with `benchmarks/conv.py`; a form stays if it gains at least
3 %.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "n h w c"]
Kernel = Float[Array, "3 3 c f"]

_correlate = partial(
    lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC")
)


def conv(x: Images, kernel: Kernel) -> Float[Array, "n h w f"]:
    """Convolves at stride 1 with SAME padding."""
    # Measured and left out: the weight gradient as a plain convolution (0.97 to 1.05 of
    # the time), as nine tap products or im2col (slower), Winograd's F(2, 3) (0.9 with
    # 256 channels, to 3 times slower elsewhere).
    if x.shape[3] <= 4 and min(x.shape[1:3]) <= 32:  # 0.6 of the time
        return _im2col(x, kernel)
    return _correlate(x, kernel, (1, 1), "SAME")


def upsample_conv(x: Images, kernel: Kernel) -> Float[Array, "n h2 w2 f"]:
    """Upsamples and convolves: a 2x2 convolution for each parity of row and column.

    The transposed form of accelerators takes 30 times as long on the CPU.
    """

    def fold(kernel: Array, axis: int) -> tuple[Array, Array]:
        a, b, c = jnp.split(kernel, 3, axis=axis)
        even, odd = [a, b + c], [a + b, c]
        return jnp.concatenate(even, axis), jnp.concatenate(odd, axis)

    return _interleave(
        [
            [
                _correlate(x, both.astype(x.dtype), (1, 1), ((1 - i, i), (1 - j, j)))
                for j, both in enumerate(fold(rows, 1))
            ]
            for i, rows in enumerate(fold(kernel.astype(jnp.float32), 0))
        ]
    )


def conv_downsample(x: Images, kernel: Kernel) -> Float[Array, "n h2 w2 f"]:
    """Convolves and takes the 2x2 mean; height and width are even."""
    # below 32 pixels XLA's own gradient is faster, 0.65 of the time at 8
    small = min(x.shape[1:3]) < 32
    return (_by_products if small else _with_parity_gradient)(x, kernel)


def _dot(x: Array, matrix: Array) -> Array:
    return jnp.einsum("nhwc,cf->nhwf", x, matrix)


def _im2col(x: Array, kernel: Array) -> Array:
    _, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return _dot(jnp.concatenate(taps, axis=3), kernel.reshape(9 * c, -1))


def _interleave(parts: list[list[Array]]) -> Array:
    n, h, w, c = parts[0][0].shape
    rows = [jnp.stack(row, axis=3) for row in parts]
    return jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, c)


# Nine matrix products on the pooled grid, where the 4x4 kernel has sixteen taps and the
# plain form 36. In one dimension, with the kernel a b c and s = a + b + c, convolving
# then taking the mean gives half of
#   s (x[2i] + x[2i+1]) + a (x[2i-1] - x[2i+1]) + c (x[2i+2] - x[2i]).
# Its transpose, upsampling then convolving, is not faster so than by parity.
def _by_products(x: Array, kernel: Array) -> Array:
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


_with_parity_gradient = jax.custom_vjp(_by_products)


def _backward(saved, dy):
    x, kernel = saved
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    dx = upsample_conv(dy, flipped / 4)
    return dx, jax.vjp(partial(_by_products, x), kernel)[1](dy)[0]


_with_parity_gradient.defvjp(
    lambda x, kernel: (_by_products(x, kernel), (x, kernel)), _backward
)
