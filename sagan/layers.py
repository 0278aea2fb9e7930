"""Layers with spectral normalisation, or without it, and batch normalisation."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sagan import conv
from sagan.config.schema import ModelConfig
from sagan.runtime.compilation import is_for_cpu

# The precision policy. By default accelerators multiply float32 numbers with fewer bits
# than they have. What must not lose bits is computed in float32 and multiplied at this
# precision: power iteration, attention scores and their softmax, batch moments, and D's
# logit. G's stem, the other dense layer, is cheap enough to share it. The rest follows
# model.dtype and the backend's default.
FULL = "highest"

INITIALIZERS = {
    "glorot_uniform": nn.initializers.glorot_uniform(),
    "orthogonal": nn.initializers.orthogonal(),
}


def spectral_normalise(
    w: Float[Array, "rows out"],
    u: Float[Array, "1 out"],
    *,
    eps: float,
    detach: bool,
) -> tuple[Float[Array, ""], Float[Array, "1 out"]]:
    """One power iteration from u: the estimate sigma of w's top singular value, and u'.

    v = l2n(u w^T), u' = l2n(v w), sigma = v w u'^T; no clamp and no gain. The gradient
    of sigma flows through the iteration unless `detach`.

    Source: official ops.py:120-175, which does not detach; Miyato et al. 2018
    (arXiv:1802.05957), algorithm 1, where u and v are constants.
    """
    dot = partial(jnp.dot, precision=FULL)

    def unit(x: Float[Array, "1 m"]) -> Float[Array, "1 m"]:
        return x / (jnp.sqrt(jnp.sum(x**2)) + eps)

    v = unit(dot(u, w.T))
    u = unit(dot(v, w))
    if detach:
        u, v = jax.lax.stop_gradient((u, v))
    return dot(dot(v, w), u.T)[0, 0], jax.lax.stop_gradient(u)


class SpectralModule(nn.Module):
    """Base of the layers with spectral normalisation.

    The collection `spectral` holds u and the last sigma of every layer. Each call does
    one power iteration from the stored u and, if the collection is mutable, stores the
    result; the caller decides which passes do (see step.py).

    Attributes:
      model: Initialiser, epsilon, detaching and precision, shared by all layers.
      sn: Whether to normalise. Without, parameters have the same names and the
        collection does not exist.
    """

    model: ModelConfig
    sn: bool = True

    def weight(
        self, name: str, shape: Sequence[int], *, transposed: bool = False
    ) -> Float[Array, "..."]:
        """The parameter `name`, divided by sigma if `sn`, in model.dtype.

        sigma is computed in float32, of the weight as a matrix [-1, out] or, if
        `transposed`, of its transpose.
        """
        w = self.param(name, INITIALIZERS[self.model.init], tuple(shape))
        if not self.sn:
            return w.astype(self.model.dtype)
        matrix = w.T if transposed else w.reshape(-1, shape[-1])
        u = self.variable("spectral", "u", self._first_u, (1, matrix.shape[-1]))
        sigma, next_u = spectral_normalise(
            matrix, u.value, eps=self.model.sn_eps, detach=self.model.sn_detach
        )
        stored = self.variable("spectral", "sigma", jnp.ones, ())
        if self.is_mutable_collection("spectral") and not self.is_initializing():
            u.value, stored.value = next_u, jax.lax.stop_gradient(sigma)
        return (w / sigma).astype(self.model.dtype)

    def _first_u(self, shape: tuple[int, int]) -> Float[Array, "1 out"]:
        # official ops.py:153-155
        key = self.make_rng("params")
        return jax.random.truncated_normal(key, -2.0, 2.0, shape)


class SNConv(SpectralModule, kw_only=True):
    """A spectrally normalised convolution: 1x1 or 3x3, stride 1, same padding.

    Attributes:
      features: Number of channels of the output.
      kernel_size: 1 or 3.
      use_bias: Whether to add a bias; attention's convolutions have none.
      resample: "up" doubles the image first (nearest neighbour), "down" halves the
        result (2x2 mean). model.fast selects exact, cheaper forms; see conv.py.

    Source: official ops.py:180-215.
    """

    features: int
    kernel_size: int = 3
    use_bias: bool = True
    resample: str = ""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n hh ww o"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.weight("kernel", shape)
        form = {"": conv.conv, "up": conv.upsample_conv, "down": conv.conv_downsample}
        cpu = is_for_cpu(self.model.target)
        fast = self.model.fast
        x = form[self.resample](x.astype(kernel.dtype), kernel, fast=fast, cpu=cpu)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            x = x + bias.astype(x.dtype)[None, None, None]
        return x


class SNDense(SpectralModule, kw_only=True):
    """A spectrally normalised linear layer. Source: official ops.py:218-240."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "n c"]) -> Float[Array, "n o"]:
        kernel = self.weight("kernel", (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = jnp.dot(x.astype(kernel.dtype), kernel, precision=FULL)
        return x + bias.astype(kernel.dtype)[None]


class SNEmbed(SpectralModule, kw_only=True):
    """A spectrally normalised table with one row for each class.

    The transpose is normalised, so u has one entry for each class.

    Source: official ops.py:243-265.
    """

    classes: int
    features: int

    @nn.compact
    def __call__(self, y: Int[Array, " n"]) -> Float[Array, "n o"]:
        shape = (self.classes, self.features)
        return self.weight("embedding", shape, transposed=True)[y]


class SNTable(SpectralModule, kw_only=True):
    """A spectrally normalised batch-norm table: `offset` + table[y].

    Source: StudioGAN utils/ops.py:21-28, where scales are 1 plus a normalised linear
    map of the one-hot label; the official code does not normalise its tables.
    """

    classes: int
    features: int
    offset: float = 0.0

    @nn.compact
    def __call__(self, y: Int[Array, " n"]) -> Float[Array, "n o"]:
        table = self.weight("kernel", (self.classes, self.features))
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
      sn_tables: Settings for normalising the tables spectrally, or None.
      axis_name: Name of the axis over which pmap spreads the batch, or None.

    Source: official ops.py:304-376.
    """

    group: int
    momentum: float
    eps: float
    classes: int = 0
    sn_tables: ModelConfig | None = None
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
                for running, batch in ((mean, means), (var, variances)):
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
            table = partial(SNTable, self.sn_tables, classes=self.classes, features=c)
            return table(offset=1.0, name="scale")(y), table(name="bias")(y)
        shape = (self.classes, c) if self.classes else (c,)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if self.classes:
            return scale[y], bias[y]
        return scale[None], bias[None]


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
