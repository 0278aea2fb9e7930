"""Residual blocks of both networks, and BLOCKS, the layers that go between them."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from sagan.attention import SelfAttention
from sagan.batch_norm import BatchNorm
from sagan.config.schema import DiscriminatorConfig, GeneratorConfig, ModelConfig
from sagan.layers import SNConv, SpectralModule


class GeneratorBlock(nn.Module):
    """Doubles the resolution: BN, ReLU, up, 3x3, BN, ReLU, 3x3, plus an upsampled 1x1.

    Attributes:
      features: Number of channels of the output.
      classes: Number of classes of the batch norms; 0: unconditional.
      g: Settings of batch norm and spectral norm.
      model: Settings of the normalised layers.
      axis_name: Name of the axis over which pmap spreads the batch, or None.

    Source: official generator.py:78-92; the shortcut is always learned.
    """

    features: int
    classes: int
    g: GeneratorConfig
    model: ModelConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], y: Int[Array, " n"], *, train: bool
    ) -> Float[Array, "n hh ww o"]:
        conv = partial(SNConv, self.model, self.g.sn, features=self.features)
        norm = partial(
            BatchNorm,
            group=self.g.bn_group,
            momentum=self.g.bn_momentum,
            eps=self.g.bn_eps,
            classes=self.classes,
            unbiased=self.g.bn_unbiased,
            sn_tables=self.model if self.g.sn_tables != "none" else None,
            sn_side=self.g.sn_tables,
            axis_name=self.axis_name,
        )
        shortcut = conv(kernel_size=1, resample="up", name="shortcut")(x)
        x = jax.nn.relu(norm(name="bn1")(x, y, train=train))
        x = conv(resample="up", name="conv1")(x)
        x = jax.nn.relu(norm(name="bn2")(x, y, train=train))
        x = conv(name="conv2")(x)
        return x + shortcut


class DiscriminatorBlock(nn.Module):
    """ReLU, 3x3, ReLU, 3x3, plus a 1x1 shortcut; `down` halves the resolution.

    The first block sees pixels, so it has no ReLU before its first convolution. The
    shortcut is the identity if neither resolution nor channels change. Both 3x3
    convolutions have the same number of channels. With d.rectified_shortcut the
    shortcut takes ReLU(x), if there is one.

    Source: official discriminator.py:46-62 and, for the first, 82-93. There the
    shortcut takes x itself; the in-place ReLU of StudioGAN resnet.py:234-247 changes
    x before the shortcut reads it.
    """

    features: int
    down: bool
    is_first: bool
    model: ModelConfig
    d: DiscriminatorConfig = DiscriminatorConfig()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n hh ww o"]:
        conv = partial(SNConv, self.model, self.d.sn, features=self.features)
        resample = "down" if self.down else ""
        is_rectified = self.d.rectified_shortcut and not self.is_first
        shortcut = jax.nn.relu(x) if is_rectified else x
        if self.down or x.shape[-1] != self.features:
            convolve = conv(kernel_size=1, resample=resample, name="shortcut")
            shortcut = convolve(shortcut)
        x = x if self.is_first else jax.nn.relu(x)
        x = conv(name="conv1")(x)
        x = conv(resample=resample, name="conv2")(jax.nn.relu(x))
        return x + shortcut


class Residual(SpectralModule):
    """A residual block with about as many parameters as attention, 1.25 C^2.

    Two 3x3 convolutions with 5/72 C channels between them.

    Source: arXiv:1805.08318, table 1; the paper does not describe the block further.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        c = x.shape[-1]
        hidden = max(1, round(1.25 * c / 18))  # 2 * 9 * c * hidden = 1.25 c^2
        conv = partial(SNConv, self.model, self.sn)
        o = conv(features=hidden, name="conv1")(jax.nn.relu(x))
        o = conv(features=c, name="conv2")(jax.nn.relu(o))
        return x + o


class Identity(SpectralModule):
    """Returns its input: the baseline without attention."""

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return x


def maybe_remat(module: nn.Module, *args: Array, remat: bool, **static: Any) -> Array:
    """Calls a module; with `remat` its backward pass computes the activations again.

    Only the inputs are kept. Mutable collections are still updated once.

    Args:
      module: A block of the network that calls this.
      *args: Arrays.
      remat: config.model.remat.
      **static: Keyword arguments that are not arrays.
    """
    if not remat:
        return module(*args, **static)
    again = nn.remat(lambda module, *args: module(*args, **static))
    return again(module, *args)


BLOCKS: dict[str, type[SpectralModule]] = {
    "attention": SelfAttention,
    "residual": Residual,
    "none": Identity,
}
