"""Layers with spectral normalisation, or without it."""

from collections.abc import Mapping, Sequence
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
    clamp: bool = False,
) -> tuple[Float[Array, ""], Float[Array, "1 out"]]:
    """One power iteration from u: the estimate sigma of w's top singular value, and u'.

    v = l2n(u w^T), u' = l2n(v w), sigma = v w u'^T; sigma has no bound and no gain. The
    gradient of sigma flows through the iteration unless `detach`. l2n divides by the
    norm plus eps or, if `clamp`, by the larger of the two: a clamped eps has no effect
    on any but tiny weights, an added one has.

    Source: official ops.py:120-175, which adds and does not detach; Miyato et al. 2018
    (arXiv:1802.05957), algorithm 1, where u and v are constants. PyTorch clamps.
    """
    v = _unit(_dot(u, w.T), eps, clamp)
    u = _unit(_dot(v, w), eps, clamp)
    if detach:
        u, v = jax.lax.stop_gradient((u, v))
    return _dot(_dot(v, w), u.T)[0, 0], jax.lax.stop_gradient(u)


def evaluated_sigma(
    w: Float[Array, "rows out"], stats: Mapping[str, Array], model: ModelConfig
) -> Float[Array, ""]:
    """The sigma by which evaluation divides w, by model.sn_eval, from u and any v."""
    u, eps, clamp = stats["u"], model.sn_eps, model.sn_clamp
    if model.sn_eval == "stored":  # u is not of length 1 before the first pass
        return _dot(_dot(stats["v"], w), _unit(u, eps, clamp).T)[0, 0]
    return spectral_normalise(w, u, eps=eps, detach=model.sn_detach, clamp=clamp)[0]


def _unit(x: Float[Array, "1 m"], eps: float, clamp: bool) -> Float[Array, "1 m"]:
    norm = jnp.sqrt(jnp.sum(x**2))
    return x / (jnp.maximum(norm, eps) if clamp else norm + eps)


_dot = partial(jnp.dot, precision=FULL)


class SpectralModule(nn.Module):
    """Base of the layers with spectral normalisation.

    The collection `spectral` holds u and the last sigma of every layer. Each call does
    one power iteration from the stored u and, if the collection is mutable, stores the
    result: passes of training make it mutable, and step.py decides which results stay.
    With model.sn_eval = "stored" it holds v too, and all others use these u and v.

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
        eps, clamp = self.model.sn_eps, self.model.sn_clamp
        moves = self.is_mutable_collection("spectral") and not self.is_initializing()
        sigma, next_u = spectral_normalise(
            matrix, u.value, eps=eps, detach=self.model.sn_detach, clamp=clamp
        )
        stored = self.variable("spectral", "sigma", jnp.ones, ())
        if self.model.sn_eval == "stored":
            next_v = jax.lax.stop_gradient(_unit(_dot(u.value, matrix.T), eps, clamp))
            v = self.variable("spectral", "v", lambda: next_v)
            if moves:
                v.value = next_v
            else:
                pair = {"u": u.value, "v": v.value}
                sigma = evaluated_sigma(matrix, pair, self.model)
        if moves:
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
