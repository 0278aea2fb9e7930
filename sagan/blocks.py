"""Residual blocks of both networks, and BLOCKS: what fills the slot between them."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from sagan.attention import SelfAttention
from sagan.config.schema import GeneratorConfig, ModelConfig
from sagan.layers import BatchNorm, SNConv, SpectralModule


class GeneratorBlock(nn.Module):
    """Doubles the image: BN, ReLU, up, 3x3, BN, ReLU, 3x3, plus an upsampled 1x1.

    Attributes:
      features: Number of channels of the output.
      classes: Number of classes of the batch norms; 0: unconditional.
      g: Batch-norm settings.
      model: Settings of the normalised layers.
      axis_name: Name of the mapped axis, or None.

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
        def norm(name: str, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
            return BatchNorm(
                group=self.g.bn_group,
                momentum=self.g.bn_momentum,
                eps=self.g.bn_eps,
                classes=self.classes,
                sn_tables=self.model if self.g.sn_tables else None,
                axis_name=self.axis_name,
                name=name,
            )(x, y, train=train)

        shortcut = SNConv(
            self.model,
            features=self.features,
            kernel_size=1,
            resample="up",
            name="shortcut",
        )(x)
        x = jax.nn.relu(norm("bn1", x))
        x = SNConv(self.model, features=self.features, resample="up", name="conv1")(x)
        x = jax.nn.relu(norm("bn2", x))
        x = SNConv(self.model, features=self.features, name="conv2")(x)
        return x + shortcut


class DiscriminatorBlock(nn.Module):
    """ReLU, 3x3, ReLU, 3x3, plus a 1x1 shortcut; with `down` both are halved.

    The first block sees the image, and has no ReLU before its first convolution. The
    shortcut is the identity if neither size nor channels change. Hidden and output
    channels are equal.

    Source: official discriminator.py:46-62 and, for the first, 82-93. The shortcut of
    the official code starts from x itself: an in-place ReLU (StudioGAN) changes it.
    """

    features: int
    down: bool
    is_first: bool
    model: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n hh ww o"]:
        resample = "down" if self.down else ""
        shortcut = x
        if self.down or x.shape[-1] != self.features:
            shortcut = SNConv(
                self.model,
                features=self.features,
                kernel_size=1,
                resample=resample,
                name="shortcut",
            )(x)
        x = x if self.is_first else jax.nn.relu(x)
        x = SNConv(self.model, features=self.features, name="conv1")(x)
        x = jax.nn.relu(x)
        x = SNConv(self.model, features=self.features, resample=resample, name="conv2")(
            x
        )
        return x + shortcut


class Residual(SpectralModule):
    """A residual block with about as many parameters as attention: 1.25 C^2.

    Source: arXiv:1805.08318, table 1, whose text leaves the block open. Here two 3x3
    convolutions through 5/72 C channels.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        c = x.shape[-1]
        hidden = max(1, round(1.25 * c / 18))  # 2 * 9 * c * hidden = 1.25 c^2
        o = SNConv(self.model, features=hidden, name="conv1")(jax.nn.relu(x))
        o = SNConv(self.model, features=c, name="conv2")(jax.nn.relu(o))
        return x + o


class Identity(SpectralModule):
    """Does nothing: the baseline without attention."""

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return x


def maybe_remat(module: nn.Module, *args: Array, remat: bool, **static: Any) -> Array:
    """Calls a module; with `remat` only its inputs are kept for the backward pass.

    Everything inside is then computed again. Collections move once all the same.

    Args:
      module: A block, bound to its network.
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
