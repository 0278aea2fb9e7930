"""Kernel Inception distance: the maximum mean discrepancy of a cubic kernel."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float64

from sagan.metrics.interface import (
    Measured,
    Metric,
    MetricError,
    join_pieces,
    row_blocks,
)
from sagan.runtime.progress import Progress, silent

_SEED = 2020  # torch-fidelity's


@dataclasses.dataclass(frozen=True)
class KernelDistance(Metric):
    """Unbiased MMD^2 with the kernel (x.y / d + 1)^3, over subsets and in full.

    `kid` and `kid_std` are the mean and population deviation over random subsets, the
    same ones as torch-fidelity's; `kid_full` takes every pair of images once, and so
    varies least. With random labels both are unbiased: they can be compared across
    numbers of images, and may be negative. Labels in fixed shares make either set more
    even than random draws are, and a perfect generator's mean then lies below 0, by an
    amount that falls as 1/n.

    Subsets of fakes and reals have one size. If a set has fewer images than `size`, it
    is half of the smaller set, which a note says.

    Source: Bińkowski et al. 2018 (arXiv:1801.01401), section 4; torch-fidelity 0.4.0
    for the draws. Sums are in float64; torch-fidelity's are in float32.

    Attributes:
      subsets: Number of subsets.
      size: Number of images of either set in a subset.
    """

    distance = True
    extrapolated = True
    subsets: int = 100
    size: int = 1000

    def compute(self, real: Any, fake: Any, progress: Progress = silent) -> Measured:
        """{"kid", "kid_std", "kid_full"}.

        Raises:
          MetricError: There are fewer than four fakes or reals.
        """
        reals = join_pieces(real, "vector", "real")
        fakes = join_pieces(fake, "vector", "fake")
        fewest = min(len(reals), len(fakes))
        if fewest < 4:
            raise MetricError(
                f"kid needs 4 images: {len(fakes)} are fake, {len(reals)} real"
            )
        size, notes = self.size, ()
        if fewest < size:
            size = fewest // 2
            notes = (f"kid: subsets of {size} images, not of {self.size}",)
        over_subsets = _over_subsets(fakes, reals, self.subsets, size, progress)
        values = {
            "kid": float(np.mean(over_subsets)),
            "kid_std": float(np.std(over_subsets)),
            "kid_full": _in_full(fakes, reals, progress),
        }
        return Measured(values, notes)


def _over_subsets(
    fakes: Float[np.ndarray, "n d"],
    reals: Float[np.ndarray, "m d"],
    subsets: int,
    size: int,
    progress: Progress,
) -> list[float]:
    rng = np.random.RandomState(_SEED)
    distances = []
    for _ in progress(range(subsets), "subsets"):
        x = fakes[rng.choice(len(fakes), size, replace=False)]
        y = reals[rng.choice(len(reals), size, replace=False)]
        with jax.enable_x64(True):
            distances.append(float(_mmd2(x.astype(np.float64), y.astype(np.float64))))
    return distances


def _in_full(
    fakes: Float[np.ndarray, "n d"], reals: Float[np.ndarray, "m d"], progress: Progress
) -> float:
    n, m = len(fakes), len(reals)
    pairs = {"fake": n * (n - 1), "real": m * (m - 1), "both": -n * m / 2}
    work = [("fake", *rows) for rows in row_blocks(n, n)]
    work += [("real", *rows) for rows in row_blocks(m, m)]
    work += [("both", *rows) for rows in row_blocks(n, m)]
    distance = 0.0
    with jax.enable_x64(True):
        x, y = (jnp.asarray(part.astype(np.float64)) for part in (fakes, reals))
        sets = {"fake": (x, x), "real": (y, y), "both": (x, y)}
        for what, start, size in progress(work, "blocks of pairs"):
            total = _sum_of_rows(*sets[what], start, size, own=what != "both")
            distance += float(total) / pairs[what]
    return distance


@jax.jit
def _mmd2(x: Float64[Array, "n d"], y: Float64[Array, "n d"]) -> Float64[Array, ""]:
    n = len(x)
    within = _kernel_sum(x, x, jnp.arange(n)) + _kernel_sum(y, y, jnp.arange(n))
    return within / (n * (n - 1)) - 2 * _kernel_sum(x, y, None) / n**2


@partial(jax.jit, static_argnames=("size", "own"))
def _sum_of_rows(
    x: Float64[Array, "n d"], y: Float64[Array, "m d"], start: Any, size: int, own: bool
) -> Float64[Array, ""]:
    rows = lax.dynamic_slice_in_dim(x, start, size)
    return _kernel_sum(rows, y, start + jnp.arange(size) if own else None)


def _kernel_sum(
    x: Float64[Array, "n d"], y: Float64[Array, "m d"], own: Any
) -> Float64[Array, ""]:
    """Sum of the kernel over all pairs except row i with column own[i]."""
    k = (x @ y.T / x.shape[1] + 1) ** 3
    if own is not None:
        k = jnp.where(own[:, None] == jnp.arange(len(y))[None, :], 0, k)
    return k.sum()
