"""Self-attention over image positions: section 3 of the paper, nothing else."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sagan.layers import FULL, SNConv, SpectralModule
from sagan.runtime.compilation import is_for_cpu

# Bytes of beta at a time: half of a TPU v5e's on-chip memory. Forward and gradient of
# 64 images at 64x64 are then predicted to take 0.35 of the time of all of beta at once,
# and in parts of twice the size 0.86: benchmarks/results/tpu_plan.txt.
ON_CHIP = 2**26
FEWEST = 128  # queries of a chunk


class SelfAttention(SpectralModule):
    """Adds to each position j what it gathers from all positions i.

    In the paper's names, with x_j the features at position j:

      s_ij    = f(x_i) . g(x_j)                 scores of keys f and queries g
      beta_ji = exp(s_ij) / sum_i exp(s_ij)     share of position i in what j gathers
      o_j     = v(sum_i beta_ji h(x_i))         from the values h
      y_j     = gamma o_j + x_j

    f, g, h and v are 1x1 convolutions with spectral normalisation: one linear layer
    each, applied at every position. gamma is a learned scalar that starts at zero, so
    that a fresh layer is the identity.

    The rest follows the official code. Keys and values are max-pooled 2x2, so i runs
    over a quarter of the positions (the paper does not say). Values have C/2 channels
    (the paper says C/8). f, g, h and v have no bias. As in the paper, scores are not
    divided by the root of the number of channels.

    Precision: f, g, h and v compute in model.dtype. The scores of what f and g return
    are exact products (bfloat16) or full-precision ones (float32), summed in float32 on
    every backend; the softmax is float32. The sum over values casts beta to model.dtype
    and, like a convolution, multiplies at the backend's default precision.

    With model.attention_chunks the queries are processed in that many parts, one after
    another: the values and gradients are the same, but only a part of beta exists at a
    time. With 0, the default, `choose_chunks` says how many. If the collection
    `intermediates` is mutable, it gets x, all of beta [n, positions j, positions i]
    and, as `drawn`, gamma o; see sampling/attention_maps.py.

    Attributes:
      reduction: C over the number of channels of keys and queries.
      value_reduction: C over the number of channels of the values.

    Source: arXiv:1805.08318, section 3; official non_local.py:48-81, where f, g and h
    are called phi, theta and g.
    """

    reduction: int = 8  # C / C-bar in the paper
    value_reduction: int = 2  # official non_local.py:71; the paper's text says 8

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        n, height, width, c = x.shape
        if c % self.reduction or c % self.value_reduction:
            raise ValueError(
                f"attention at {height}x{width}: {c} channels do not divide by"
                f" {self.reduction} and {self.value_reduction}"
            )

        def project(name: str, channels: int) -> Float[Array, "n h w o"]:
            return self._conv(name, channels)(x)

        def flat(x: Float[Array, "n hh ww o"]) -> Float[Array, "n positions o"]:
            return x.reshape(n, -1, x.shape[-1])

        keys = flat(max_pool(project("f", c // self.reduction)))
        queries = flat(project("g", c // self.reduction))
        values = flat(max_pool(project("h", c // self.value_reduction)))
        chunks = self.model.attention_chunks or choose_chunks(
            n, queries.shape[1], keys.shape[1], cpu=is_for_cpu(self.model.target)
        )
        if chunks == 1 or self.is_mutable_collection("intermediates"):
            o, beta = attend(queries, keys, values)
            self.sow("intermediates", "beta", beta)
        else:
            o = attend_in_chunks(queries, keys, values, chunks=chunks)
        o = self._conv("v", c)(o.reshape(n, height, width, -1))
        gamma = self.param("gamma", nn.initializers.zeros, ())
        drawn = gamma.astype(o.dtype) * o
        self.sow("intermediates", "x", x)
        self.sow("intermediates", "drawn", drawn)
        return drawn + x.astype(o.dtype)

    def _conv(self, name: str, channels: int) -> SNConv:
        conv = partial(SNConv, self.model, self.sn, kernel_size=1, use_bias=False)
        return conv(features=channels, name=name)


def attend(
    queries: Float[Array, "n j c"],
    keys: Float[Array, "n i c"],
    values: Float[Array, "n i o"],
) -> tuple[Float[Array, "n j o"], Float[Array, "n j i"]]:
    """The sum over keys i of beta_ji times the values, and beta, for each query j."""
    # bfloat16 products are exact anyway; libtpu 0.0.42 cannot compile them at "highest"
    precision = FULL if queries.dtype == jnp.float32 else None
    s = jnp.einsum(
        "njc,nic->nji",
        queries,
        keys,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    beta = jax.nn.softmax(s, axis=-1)  # over the keys i
    return jnp.einsum("nji,nic->njc", beta.astype(values.dtype), values), beta


def choose_chunks(images: int, queries: int, keys: int, *, cpu: bool) -> int:
    """The least number of chunks whose part of beta stays on an accelerator's chip.

    1 on CPUs, which have no such memory. No chunk gets fewer than FEWEST queries.
    """
    most = 1 if cpu else max(queries // FEWEST, 1)
    numbers = [n for n in range(1, most + 1) if queries % n == 0]
    size = 4 * images * queries * keys  # bytes of all of beta
    return next((n for n in numbers if size <= n * ON_CHIP), numbers[-1])


def attend_in_chunks(
    queries: Float[Array, "n j c"],
    keys: Float[Array, "n i c"],
    values: Float[Array, "n i o"],
    *,
    chunks: int,
) -> Float[Array, "n j o"]:
    """The sum of `attend`, for a part of the queries at a time.

    beta is never whole: the backward pass computes each part again.

    Raises:
      ValueError: The number of queries does not divide by `chunks`.
    """
    n, positions, c = queries.shape
    if positions % chunks:
        raise ValueError(f"{positions} positions do not divide by {chunks} chunks")

    @partial(jax.checkpoint, prevent_cse=False)  # a loop prevents it already
    def one(chunk: Float[Array, "n j c"]) -> Float[Array, "n j o"]:
        return attend(chunk, keys, values)[0]

    parts = queries.reshape(n, chunks, -1, c).swapaxes(0, 1)
    return jax.lax.map(one, parts).swapaxes(0, 1).reshape(n, positions, -1)


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n hh ww c"]:
    """2x2 max pooling; an odd last row or column is dropped."""
    return nn.max_pool(x, (2, 2), strides=(2, 2))
