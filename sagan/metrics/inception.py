"""The Inception network of FID, as of 2015-12-05.

Neither torchvision's nor Keras's Inception v3: this one has 1008 outputs, averages that
leave out the padding, and a maximum in the last block where the paper has an average.
Its weights are read by weights.py.
"""

from collections.abc import Callable, Iterator
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

# see layers.py, the precision policy
HIGHEST = jax.lax.Precision.HIGHEST

Maps = Float32[Array, "n h w c"]
Made = Float32[Array, "n hh ww o"]
Branches = Iterator[Made]


class Conv(nn.Module):
    """Convolution (of averages), batch norm by the running statistics, ReLU."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"
    averaged: bool = False

    @nn.compact
    def __call__(self, x: Maps) -> Made:
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param("conv.weight", nn.initializers.he_normal(), shape)
        weight = self.param("bn.weight", ones, shape[-1:])
        bias = self.param("bn.bias", zeros, shape[-1:])
        mean = self.param("bn.running_mean", zeros, shape[-1:])
        var = self.param("bn.running_var", ones, shape[-1:])
        strides, axes = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, kernel, strides, self.padding, dimension_numbers=axes, precision=HIGHEST
        )
        if self.averaged:  # the same as before the convolution, with fewer channels
            x = average(x)
        scale = weight * jax.lax.rsqrt(var + 1e-3)
        shift = bias - mean * scale
        return nn.relu(x * scale[None, None, None] + shift[None, None, None])


def chain(x: Maps, name: str, *steps: tuple[int, int, int], stride: int = 1) -> Made:
    """Convolutions `name`_1, _2, ... of (features, height, width); the last strides."""
    for i, (features, height, width) in enumerate(steps, 1):
        last = (stride, "VALID") if i == len(steps) and stride > 1 else (1, "SAME")
        x = Conv(features, (height, width), *last, name=f"{name}_{i}")(x)
    return x


def fork(x: Maps, name: str) -> Made:
    """A wide and a tall convolution beside each other."""
    pair = Conv(384, (1, 3), name=f"{name}a"), Conv(384, (3, 1), name=f"{name}b")
    return jnp.concatenate([conv(x) for conv in pair], axis=-1)


def average(x: Maps) -> Maps:
    """3x3 means; those at the border are of fewer pixels."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def maximum(x: Maps) -> Maps:
    """3x3 maxima."""
    return nn.max_pool(x, (3, 3), padding="SAME")


def halve(x: Maps) -> Made:
    """3x3 maxima of every second pixel, without padding."""
    return nn.max_pool(x, (3, 3), (2, 2))


def block35(x: Maps, *, pool_features: int) -> Branches:
    """At 35x35."""
    yield Conv(64, name="branch1x1")(x)
    yield chain(x, "branch5x5", (48, 1, 1), (64, 5, 5))
    yield chain(x, "branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3))
    yield Conv(pool_features, averaged=True, name="branch_pool")(x)


def to17(x: Maps) -> Branches:
    """From 35x35 to 17x17."""
    yield Conv(384, (3, 3), 2, "VALID", name="branch3x3")(x)
    yield chain(x, "branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3), stride=2)
    yield halve(x)


def block17(x: Maps, *, c: int) -> Branches:
    """At 17x17."""
    double = ((c, 1, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7))
    yield Conv(192, name="branch1x1")(x)
    yield chain(x, "branch7x7", (c, 1, 1), (c, 1, 7), (192, 7, 1))
    yield chain(x, "branch7x7dbl", *double)
    yield Conv(192, averaged=True, name="branch_pool")(x)


def to8(x: Maps) -> Branches:
    """From 17x17 to 8x8."""
    seven = ((192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3))
    yield chain(x, "branch3x3", (192, 1, 1), (320, 3, 3), stride=2)
    yield chain(x, "branch7x7x3", *seven, stride=2)
    yield halve(x)


def block8(x: Maps, *, averaged: bool) -> Branches:
    """At 8x8."""
    yield Conv(320, name="branch1x1")(x)
    yield fork(chain(x, "branch3x3", (384, 1, 1)), "branch3x3_2")
    yield fork(chain(x, "branch3x3dbl", (448, 1, 1), (384, 3, 3)), "branch3x3dbl_3")
    pooled = x if averaged else maximum(x)
    yield Conv(192, averaged=averaged, name="branch_pool")(pooled)


MIXED: dict[str, Callable[[Maps], Branches]] = {
    "Mixed_5b": partial(block35, pool_features=32),
    "Mixed_5c": partial(block35, pool_features=64),
    "Mixed_5d": partial(block35, pool_features=64),
    "Mixed_6a": to17,
    "Mixed_6b": partial(block17, c=128),
    "Mixed_6c": partial(block17, c=160),
    "Mixed_6d": partial(block17, c=160),
    "Mixed_6e": partial(block17, c=192),
    "Mixed_7a": to8,
    "Mixed_7b": partial(block8, averaged=True),
    "Mixed_7c": partial(block8, averaged=False),  # sic: True in the paper
}


class Mixed(nn.Module):
    """The channels of all branches, which are a function of the block's input."""

    branches: Callable[[Maps], Branches]

    @nn.compact
    def __call__(self, x: Maps) -> Made:
        return jnp.concatenate(list(self.branches(x)), axis=-1)


class Inception(nn.Module):
    """Resized images, 0 to 255, to pool3 and the logits without their bias.

    Source: classify_image_graph_def.pb of 2015-12-05; torch-fidelity 0.4.0, whose
    names the parameters have.
    """

    SIZE = 299

    @nn.compact
    def __call__(
        self, x: Float32[Array, "n 299 299 3"]
    ) -> tuple[Float32[Array, "n 2048"], Float32[Array, "n 1008"]]:
        x = (x - 128) / 128
        x = Conv(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = Conv(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = halve(Conv(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = Conv(80, name="Conv2d_3b_1x1")(x)
        x = halve(Conv(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x))
        for name, branches in MIXED.items():
            x = Mixed(branches, name=name)(x)
        pool3 = x.mean(axis=(1, 2))
        weight = self.param("fc.weight", nn.initializers.he_normal(), (2048, 1008))
        self.param("fc.bias", nn.initializers.zeros, (1008,))  # for who wants it
        return pool3, jnp.dot(pool3, weight, precision=HIGHEST)
