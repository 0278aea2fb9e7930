"""Forms of the convolutions that only XLA's CPU backend gains from.

Images are NHWC, kernels 3x3 HWIO. Each form gives the values and gradients of the plain
form, to rounding. Measured with `benchmarks/conv.py`; a form stays if some step takes
at least 3 % longer without it.
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
    # Measured and left out: weight gradients as products (slower), Winograd's F(2, 3)
    # (0.9 with 256 channels, to 3 times slower elsewhere), one product for 3 outputs
    # (0.1 to 0.3 of the time, but the whole step is not faster).
    if _is_wide(x.shape[1:3], kernel):  # the gradient of x: 0.5 to 0.8 of the time
        return _with_product_gradient(x, kernel)
    return _plain(x, kernel)


def upsample_conv(x: Images, kernel: Kernel) -> Float[Array, "n h2 w2 f"]:
    """Upsamples and convolves: a 2x2 convolution for each parity of row and column.

    The transposed form of accelerators takes 30 times as long on the CPU.
    """
    n, h, w, _ = x.shape
    if _is_wide((2 * h, 2 * w), kernel):
        return conv(x.repeat(2, axis=1).repeat(2, axis=2), kernel.astype(x.dtype))
    parts = [
        [
            _correlate(x, both.astype(x.dtype), (1, 1), ((1 - i, i), (1 - j, j)))
            for j, both in enumerate(row)
        ]
        for i, row in enumerate(_by_parity(kernel))
    ]
    rows = [jnp.stack(row, axis=3) for row in parts]
    return jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, -1)


def conv_downsample(x: Images, kernel: Kernel) -> Float[Array, "n h2 w2 f"]:
    """Convolves and takes the 2x2 mean; height and width are even."""
    n, h, w, c = x.shape
    if min(h, w) < 32:  # 0.6 of the time with 512 channels at 16x16
        return _by_products(x, kernel)
    # the transpose of upsample_conv: 0.6 of the time of _by_products
    pixels = x.reshape(n, h // 2, 2, w // 2, 2, c)
    products = [
        _correlate(pixels[:, :, 1 - i, :, 1 - j], both, (1, 1), pad)
        for i, row in enumerate(_by_parity(kernel / 4))
        for j, both in enumerate(row)
        for pad in [((1 - i, i), (1 - j, j))]
    ]
    return sum(products[1:], products[0])


def _plain(x: Array, kernel: Array) -> Array:
    return _correlate(x, kernel, (1, 1), "SAME")


def _is_wide(size: tuple[int, ...], kernel: Array) -> bool:
    """Whether XLA takes as long to transpose the kernel as to convolve with it."""
    return max(size) <= 8 and min(kernel.shape[2:]) >= 1024


_with_product_gradient = jax.custom_vjp(_plain)


def _backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    _, h, w, _ = x.shape
    taps = jnp.einsum("ijcf,nhwf->ijcnhw", kernel, dy)
    taps = jnp.moveaxis(taps, (3, 4, 5), (0, 1, 2))
    taps = jnp.pad(taps, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0), (0, 0)))
    parts = [
        taps[:, 2 - i : 2 - i + h, 2 - j : 2 - j + w, i, j]
        for i in range(3)
        for j in range(3)
    ]
    return sum(parts[1:], parts[0]), jax.vjp(partial(_plain, x), kernel)[1](dy)[0]


_with_product_gradient.defvjp(
    lambda x, kernel: (_plain(x, kernel), (x, kernel)), _backward
)


def _by_parity(kernel: Array) -> list[tuple[Array, Array]]:
    """2x2 kernels for each parity of row and column, of the 4x4 kernel of conv.py."""

    def fold(kernel: Array, axis: int) -> tuple[Array, Array]:
        a, b, c = jnp.split(kernel, 3, axis=axis)
        even, odd = [a, b + c], [a + b, c]
        return jnp.concatenate(even, axis), jnp.concatenate(odd, axis)

    return [fold(rows, 1) for rows in fold(kernel.astype(jnp.float32), 0)]


# Nine matrix products on the pooled grid, where the 4x4 kernel has sixteen taps and the
# plain form 36. In one dimension, with the kernel a b c and s = a + b + c, convolving
# then taking the mean gives half of
#   s (x[2i] + x[2i+1]) + a (x[2i-1] - x[2i+1]) + c (x[2i+2] - x[2i]).
# Its transpose, upsampling then convolving, is not faster so than by parity. A sum as
# `kernel.sum(0)` would take the products into a slower fusion with it.
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
        return kernel[0], kernel[0] + kernel[1] + kernel[2], kernel[2]

    products = [
        jnp.einsum("nhwc,cf->nhwf", image, matrix)
        for rows, row_kernels in zip(images(x, 1), kernels(kernel / 4), strict=True)
        for image, matrix in zip(images(rows, 2), kernels(row_kernels), strict=True)
    ]
    return sum(products[1:], products[0])
