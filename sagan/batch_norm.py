"""Batch normalisation: class-conditional or not, over groups of the batch."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sagan.config.schema import ModelConfig
from sagan.layers import SpectralModule


class SNTable(SpectralModule, kw_only=True):
    """A spectrally normalised batch-norm table: `offset` + table[y].

    Attributes:
      side: What u has one entry for: "channels", or "classes" as in SNEmbed.

    Source: StudioGAN utils/ops.py:21-28, where scales are 1 plus a normalised linear
    map of the one-hot label; MMGeneration's are normalised embeddings. The official
    code does not normalise its tables.
    """

    classes: int
    features: int
    offset: float = 0.0
    side: str = "channels"

    @nn.compact
    def __call__(self, y: Int[Array, " n"]) -> Float[Array, "n o"]:
        shape, turned = (self.classes, self.features), self.side == "classes"
        name = "embedding" if turned else "kernel"
        table = self.weight(name, shape, transposed=turned)
        return self.offset + table.astype(jnp.float32)[y]


class BatchNorm(nn.Module):
    """Batch normalisation, class-conditional if `classes` is not 0.

    Normalises with the biased moments of `group` contiguous images of the global batch
    (0: all of it), in float32. 64 gives the moments of the official code, which has 64
    images on each GPU, on any machine. Running averages take the mean over the groups.

    Attributes:
      group: Number of images that share statistics, over all devices.
      momentum: Share of the running averages that an update keeps, as in TensorFlow.
      eps: Added to the variance.
      classes: Number of rows of the tables of scales and biases; 0: no tables.
      unbiased: Whether running variances of n numbers are divided by n - 1, not n.
      sn_tables: Settings for normalising the tables spectrally, or None.
      sn_side: SNTable.side of these.
      axis_name: Name of the axis over which pmap spreads the batch, or None.

    Source: official ops.py:304-376.
    """

    group: int
    momentum: float
    eps: float
    classes: int = 0
    unbiased: bool = False
    sn_tables: ModelConfig | None = None
    sn_side: str = "channels"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], y: Int[Array, " n"], *, train: bool
    ) -> Float[Array, "n h w c"]:
        n, _, _, c = x.shape
        mean = self.variable("batch_stats", "mean", jnp.zeros, (c,))
        var = self.variable("batch_stats", "var", jnp.ones, (c,))
        if train and not self.is_initializing():
            means, variances = group_moments(x, self.group, self.axis_name)
            if self.is_mutable_collection("batch_stats"):
                keep = self.momentum
                kept = variances * self._correction(x) if self.unbiased else variances
                for running, batch in ((mean, means), (var, kept)):
                    now = batch.mean(axis=0)
                    if self.axis_name is not None:
                        now = jax.lax.pmean(now, self.axis_name)
                    running.value = keep * running.value + (1 - keep) * now
            image_mean, image_var = (
                jnp.repeat(moment, n // len(moment), axis=0)
                for moment in (means, variances)
            )
        else:
            image_mean, image_var = mean.value[None], var.value[None]
        scale, bias = self._scale_and_bias(y, c)
        scale = scale * jax.lax.rsqrt(image_var + self.eps)
        shift = bias - scale * image_mean
        return (x * scale[:, None, None] + shift[:, None, None]).astype(x.dtype)

    def _scale_and_bias(
        self, y: Int[Array, " n"], c: int
    ) -> tuple[Float[Array, "m c"], Float[Array, "m c"]]:
        if self.classes and self.sn_tables is not None:
            table = partial(
                SNTable,
                self.sn_tables,
                classes=self.classes,
                features=c,
                side=self.sn_side,
            )
            return table(offset=1.0, name="scale")(y), table(name="bias")(y)
        shape = (self.classes, c) if self.classes else (c,)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if self.classes:
            return scale[y], bias[y]
        return scale[None], bias[None]

    def _correction(self, x: Float[Array, "n h w c"]) -> float:
        """N / (n - 1) for the n values of a channel that share moments."""
        n, height, width, _ = x.shape
        devices = jax.lax.axis_size(self.axis_name) if self.axis_name else 1
        numbers = (self.group or n * devices) * height * width
        return numbers / (numbers - 1)


def group_moments(
    x: Float[Array, "n h w c"], group: int, axis_name: str | None
) -> tuple[Float[Array, "groups c"], Float[Array, "groups c"]]:
    """Mean and biased variance of each group of images on this device, in float32.

    A group may be part of the device's images, all of them, or spread over several
    devices of `axis_name`, which then all get the same moments.

    Args:
      x: The images of this device.
      group: Number of images of the global batch that share moments; 0: all.
      axis_name: Name of the mapped axis, or None if x is the global batch.
    """
    n = x.shape[0]
    spread = axis_name is not None and (group == 0 or group > n)
    groups = 1 if spread or group == 0 else n // group
    x = x.astype(jnp.float32).reshape(groups, -1, x.shape[-1])

    def average(local: Float[Array, "groups c"]) -> Float[Array, "groups c"]:
        if not spread:
            return local
        if group == 0:
            return jax.lax.pmean(local, axis_name)
        every = jax.lax.all_gather(local, axis_name)  # [devices, 1, c]
        by_group = every.reshape(-1, group // n, local.shape[-1]).mean(axis=1)
        mine = jax.lax.axis_index(axis_name) // (group // n)
        return by_group[mine][None]

    mean = average(x.mean(axis=1))
    # two passes: E[x^2] - E[x]^2 cancels if the mean is large
    return mean, average(jnp.square(x - mean[:, None]).mean(axis=1))
