"""The generator: from a latent and a class to an image."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sagan.batch_norm import BatchNorm
from sagan.blocks import BLOCKS, GeneratorBlock, maybe_remat
from sagan.config.architecture import generator_blocks, generator_stem
from sagan.config.schema import Config
from sagan.layers import SNConv, SNDense


class Generator(nn.Module):
    """Maps z [n, config.g.z] and y [n] to images [n, size, size, channels] in [-1, 1].

    config/architecture.py derives the blocks from the config. Labels are ignored if
    config.data.classes is 0.

    Collections: `params`; `batch_stats`, the running moments, which `train` updates if
    they are mutable and which normalise otherwise; with g.sn `spectral`, updated if
    mutable.

    Attributes:
      config: The experiment's config; data.classes must be an integer.
      axis_name: Name of the axis over which pmap spreads the batch, or None.

    Source: official generator.py:179-219.
    """

    config: Config
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, z: Float[Array, "n z"], y: Int[Array, " n"], *, train: bool
    ) -> Float[Array, "n h w c"]:
        config = self.config
        model, g = config.model, config.g
        channels, base = generator_stem(config)
        x = SNDense(model, g.sn, features=base * base * channels, name="stem")(z)
        x = x.reshape(-1, base, base, channels)
        for i, block in enumerate(generator_blocks(config), start=1):
            module = GeneratorBlock(
                features=block.channels,
                classes=config.data.classes or 0,
                g=g,
                model=model,
                axis_name=self.axis_name,
                name=f"block{i}",
            )
            x = maybe_remat(module, x, y, train=train, remat=model.remat)
            if block.slot:
                slot = BLOCKS[g.block](model, g.sn, name=f"{g.block}{block.resolution}")
                x = maybe_remat(slot, x, remat=model.remat)
        x = BatchNorm(  # unconditional: official generator.py:213
            group=g.bn_group,
            momentum=g.bn_momentum_out,
            eps=g.bn_eps,
            unbiased=g.bn_unbiased,
            axis_name=self.axis_name,
            name="bn_out",
        )(x, y, train=train)
        out = SNConv(model, g.sn, features=config.data.channels, name="out")
        x = out(jax.nn.relu(x))
        return jnp.tanh(x.astype(jnp.float32))
