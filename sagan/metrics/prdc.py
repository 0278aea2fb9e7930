"""Precision, recall, density and coverage from nearest-neighbour balls."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float64

from sagan.metrics.interface import (
    Collecting,
    Measured,
    MetricError,
    as_float64,
    gather,
    row_blocks,
)
from sagan.runtime.progress import Progress, silent

_IMPROVED_K = 3  # Kynkäänniemi et al.
_PRDC_K = 5  # Naeem et al.
# Squared distances come out of float64 products of up to 4096 terms: equal ones differ
# by less than this, relative to the squared norms.
_ROUNDING = 1e-13


@dataclasses.dataclass(frozen=True)
class PrecisionRecall(Collecting):
    """Shares of fakes in balls around reals, and of reals in balls around fakes.

    A ball reaches from an image to its k-th nearest neighbour in its own set, itself
    excluded. `improved_precision` is the share of fakes in the ball of a real, and
    `improved_recall` the converse, with k = 3 and closed balls. `prdc_precision` and
    `prdc_recall` are the same with k = 5 and open balls, `density` is the mean number
    of reals' balls that hold a fake, divided by k, and `coverage` the share of reals
    whose ball holds a fake. All depend on the numbers of images, equal by convention.

    Distances are in float64. Two are equal if they differ by no more than rounding, so
    copies of an image are on the surface of their balls, as they should be. The matrix
    of all distances is never held at once.

    Source: Kynkäänniemi et al. 2019 (arXiv:1904.06991), section 3.1, with any features
    instead of VGG-16's; Naeem et al. 2020 (arXiv:2002.09797), section 3, and clovaai's
    prdc 0.2.
    """

    labelled = False
    paired = True

    def compute(self, real: Any, fake: Any, progress: Progress = silent) -> Measured:
        """{"improved_precision", "improved_recall", "prdc_...", "density", "coverage"}.

        Raises:
          MetricError: There are five or fewer fakes or reals.
        """
        reals = gather(real, "vector", "real")
        fakes = gather(fake, "vector", "fake")
        for what, x in (("real", reals), ("fake", fakes)):
            if len(x) <= _PRDC_K:
                raise MetricError(
                    f"{len(x)} {what} images: neighbours need more than {_PRDC_K}"
                )
        centre = _centre(reals)
        with jax.enable_x64(True):
            real_points, fake_points = _points(reals, centre), _points(fakes, centre)
            return Measured(
                _shares(
                    real_points,
                    fake_points,
                    _all_radii(real_points, progress, "blocks of real pairs"),
                    _all_radii(fake_points, progress, "blocks of fake pairs"),
                    progress,
                )
            )


class _Points(NamedTuple):
    """Features relative to a common centre, and their squared norms."""

    x: Array
    norm: Array


class _Radii(NamedTuple):
    """Squared radii of the balls."""

    improved: Any
    prdc: Any


class _Inside(NamedTuple):
    """Memberships between a block of reals and all fakes.

    Attributes:
      fake: Whether each fake is in a ball of these reals, improved and prdc.
      real: Whether each of these reals is in a ball of a fake, improved and prdc.
      covered: Whether each of these reals' balls holds a fake.
      count: Number of pairs of a fake and a real's ball that holds it.
    """

    fake: tuple[Any, Any]
    real: tuple[Any, Any]
    covered: Any
    count: Any


def _centre(x: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, " d"]:
    """A median of each feature: relative to it, products lose the fewest digits.

    It is one of the values, so differences of integers remain integers.
    """
    some = as_float64(x[:: -(-len(x) // 1000)])
    return np.sort(some, axis=0)[(len(some) - 1) // 2]


def _points(x: Float[np.ndarray, "n d"], centre: Float64[np.ndarray, " d"]) -> _Points:
    centred = jnp.asarray(as_float64(x) - centre)
    return _Points(centred, jnp.sum(centred**2, axis=1))


def _all_radii(points: _Points, progress: Progress, what: str) -> _Radii:
    n = len(points.x)
    found = [
        _radii(points, start, size) for start, size in progress(row_blocks(n, n), what)
    ]
    return _Radii(*(jnp.concatenate(parts) for parts in zip(*found, strict=True)))


def _shares(
    real: _Points,
    fake: _Points,
    real_radii: _Radii,
    fake_radii: _Radii,
    progress: Progress,
) -> dict[str, float]:
    n, m = len(real.x), len(fake.x)
    precise = np.zeros((2, m), bool)
    recalled, covered, count = np.zeros(2), 0, 0
    for start, size in progress(row_blocks(n, m), "blocks of real and fake pairs"):
        found = _inside(real, fake, real_radii, fake_radii, start, size)
        precise |= np.stack(found.fake)
        recalled += [np.sum(part) for part in found.real]
        covered += int(np.sum(found.covered))
        count += int(found.count)
    return {
        "improved_precision": float(precise[0].mean()),
        "improved_recall": float(recalled[0] / n),
        "prdc_precision": float(precise[1].mean()),
        "prdc_recall": float(recalled[1] / n),
        "density": count / (_PRDC_K * m),
        "coverage": covered / n,
    }


def _rows(points: _Points, start: Any, size: int) -> _Points:
    return _Points(*(lax.dynamic_slice_in_dim(part, start, size) for part in points))


def _squared(a: _Points, b: _Points) -> tuple[Array, Array]:
    """Squared distances, and by how much rounding may move them."""
    norms = a.norm[:, None] + b.norm[None, :]
    return norms - 2 * (a.x @ b.x.T), _ROUNDING * norms


@partial(jax.jit, static_argnames="size")
def _radii(points: _Points, start: Any, size: int) -> _Radii:
    """Squared distances to the k-th nearest other points, for a block of rows."""
    squared, _ = _squared(_rows(points, start, size), points)
    columns = jnp.arange(len(points.x))[None, :]
    nearest, kth = start + jnp.arange(size), {}
    # removing the nearest k times is 3 to 20 times faster than a sort on a CPU
    for k in range(1, _PRDC_K + 1):
        squared = jnp.where(columns == nearest[:, None], jnp.inf, squared)
        nearest = jnp.argmin(squared, axis=1)
        kth[k] = jnp.min(squared, axis=1)
    return _Radii(kth[_IMPROVED_K], kth[_PRDC_K])


@partial(jax.jit, static_argnames="size")
def _inside(
    real: _Points,
    fake: _Points,
    real_radii: _Radii,
    fake_radii: _Radii,
    start: Any,
    size: int,
) -> _Inside:
    squared, rounding = _squared(_rows(real, start, size), fake)
    of_real = _Radii(
        *(lax.dynamic_slice_in_dim(r, start, size)[:, None] for r in real_radii)
    )
    of_fake = _Radii(*(r[None, :] for r in fake_radii))
    in_real = squared <= of_real.improved + rounding
    in_fake = squared <= of_fake.improved + rounding
    in_real_open = squared < of_real.prdc - rounding
    in_fake_open = squared < of_fake.prdc - rounding
    return _Inside(
        fake=(in_real.any(axis=0), in_real_open.any(axis=0)),
        real=(in_fake.any(axis=1), in_fake_open.any(axis=1)),
        covered=in_real_open.any(axis=1),
        count=in_real_open.sum(),
    )
