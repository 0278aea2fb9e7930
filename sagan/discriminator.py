"""The discriminator: from an image and a class to a logit."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from sagan.blocks import BLOCKS, DiscriminatorBlock, maybe_remat
from sagan.config.architecture import discriminator_blocks
from sagan.config.schema import Config
from sagan.layers import SNDense, SNEmbed


class Discriminator(nn.Module):
    """Maps images [n h w c] in [-1, 1] and labels [n] to logits [n].

    The features h are summed over positions, not averaged. The logit is linear in h,
    plus the inner product of h and the class's embedding (projection discriminator,
    arXiv:1802.05637) unless config.data.classes is 0. Both are float32.

    Collections: `params`; with d.sn `spectral`, updated if mutable.

    Attributes:
      config: The experiment's config; data.classes must be an integer.

    Source: official discriminator.py:170-206.
    """

    config: Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], y: Int[Array, " n"]
    ) -> Float[Array, " n"]:
        config = self.config
        model, d = config.model, config.d
        for i, block in enumerate(discriminator_blocks(config), start=1):
            module = DiscriminatorBlock(
                features=block.channels,
                down=block.resampled,
                is_first=i == 1,
                model=model,
                d=d,
                name=f"block{i}",
            )
            x = maybe_remat(module, x, remat=model.remat)
            if block.slot:
                slot = BLOCKS[d.block](model, d.sn, name=f"{d.block}{block.resolution}")
                x = maybe_remat(slot, x, remat=model.remat)
        h = jax.nn.relu(x).astype(jnp.float32).sum(axis=(1, 2))
        head = dataclasses.replace(model, dtype="float32")
        logits = SNDense(head, d.sn, features=1, name="logit")(h)[:, 0]
        if config.data.classes:
            table = partial(SNEmbed, classes=config.data.classes, features=h.shape[-1])
            embed = table(head, d.sn, name="embed")(y)
            logits = logits + jnp.sum(h * embed, axis=-1)
        return logits


def frozen_layers(config: Config) -> list[str]:
    """Names of the layers in the first config.d.freeze blocks.

    A block counts as one with the attention, or what stands in its place, after it.

    Source: FreezeD, arXiv:2002.10964, whose discriminators have residual blocks only.
    """
    names = []
    blocks = discriminator_blocks(config)[: config.d.freeze]
    for i, block in enumerate(blocks, start=1):
        names += [f"block{i}"]
        names += [f"{config.d.block}{block.resolution}"] * block.slot
    return names


def without_gradients(params: PyTree[Array], layers: list[str]) -> PyTree[Array]:
    """The same parameters; no gradient reaches those of `layers`."""
    held = {name: params[name] for name in layers if name in params}
    return {**params, **jax.lax.stop_gradient(held)} if held else params
