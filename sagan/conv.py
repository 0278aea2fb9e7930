"""Convolutions of the residual blocks, plain and in exact, cheaper forms.

Images are NHWC, kernels HWIO of 1x1 or 3x3, stride 1, SAME padding, no bias. With
`fast` a function computes the same values and gradients, to rounding, with fewer
multiplications. On accelerators a resampling 3x3 convolution is one convolution with a
4x4 kernel: strided downwards, transposed upwards. With `cpu` the forms are those of
runtime/cpu_convolutions.py; in bfloat16 only upsampling has one of its own there.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sagan.runtime import cpu_convolutions

Images = Float[Array, "n h w c"]
Kernel = Float[Array, "k k c f"]

_correlate = partial(
    lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC")
)


def upsample(x: Images) -> Float[Array, "n h2 w2 c"]:
    """Nearest-neighbour upsampling by two."""
    n, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c))
    return x.reshape(n, 2 * h, 2 * w, c)


def downsample(x: Images, *, cpu: bool) -> Float[Array, "n h2 w2 c"]:
    """2x2 mean pooling; an odd last row or column is dropped."""
    n, h, w, c = x.shape
    if not cpu:  # predicted in benchmarks/results/tpu_plan.txt
        two = (1, 2, 2, 1)
        sums = lax.reduce_window(x.astype(jnp.float32), 0.0, lax.add, two, two, "VALID")
        return (sums / 4).astype(x.dtype)
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    pixels = [x[:, :, i, :, j] for i in (0, 1) for j in (0, 1)]
    return sum(pixels[1:], pixels[0]) / 4  # as a mean: 3 to 20 times as long


def conv(
    x: Images, kernel: Kernel, *, fast: bool, cpu: bool
) -> Float[Array, "n h w f"]:
    """Convolves at stride 1 with SAME padding."""
    kernel = kernel.astype(x.dtype)
    if not (fast and _has_cpu_forms(x, cpu)):
        return _correlate(x, kernel, (1, 1), "SAME")
    if kernel.shape[0] == 1:
        return jnp.einsum("nhwc,cf->nhwf", x, kernel[0, 0])
    return cpu_convolutions.conv(x, kernel)


def upsample_conv(
    x: Images, kernel: Kernel, *, fast: bool, cpu: bool
) -> Float[Array, "n h2 w2 f"]:
    """Nearest-neighbour upsampling by two, then `conv`."""
    if fast and kernel.shape[0] == 1:
        return upsample(conv(x, kernel, fast=True, cpu=cpu))
    if fast and cpu:
        return cpu_convolutions.upsample_conv(x, kernel)
    if fast and min(x.shape[1:3]) >= 8:
        wide = _widen(kernel).astype(x.dtype)
        return _correlate(x, wide, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2))
    return conv(upsample(x), kernel, fast=fast, cpu=cpu)


def conv_downsample(
    x: Images, kernel: Kernel, *, fast: bool, cpu: bool
) -> Float[Array, "n h2 w2 f"]:
    """`conv`, then 2x2 mean pooling."""
    if fast and kernel.shape[0] == 1:
        return conv(downsample(x, cpu=cpu), kernel, fast=True, cpu=cpu)
    even = x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0
    if fast and even and _has_cpu_forms(x, cpu):
        return cpu_convolutions.conv_downsample(x, kernel.astype(x.dtype))
    if fast and even and min(x.shape[1:3]) > 8:
        wide = (_widen(kernel) / 4).astype(x.dtype)
        return _correlate(x, wide, (2, 2), ((1, 1), (1, 1)))
    return downsample(conv(x, kernel, fast=fast, cpu=cpu), cpu=cpu)


def _has_cpu_forms(x: Array, cpu: bool) -> bool:
    return cpu and x.dtype == jnp.float32


def _widen(kernel: Array) -> Array:
    """The 4x4 kernel of a 3x3 convolution summed over 2x2 positions.

    At stride 2 it convolves and sums; transposed, it upsamples and convolves.
    """
    kernel = kernel.astype(jnp.float32)
    shifts = [
        jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)))
        for i in (0, 1)
        for j in (0, 1)
    ]
    return sum(shifts[1:], shifts[0])
