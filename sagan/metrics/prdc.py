"""Precision, recall, density and coverage from nearest-neighbour balls."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float64

from sagan.metrics.interface import (
    Measured,
    Metric,
    MetricError,
    join_pieces,
    row_blocks,
)
from sagan.runtime.progress import Progress, silent

_IMPROVED_K = 3  # Kynkäänniemi et al.
_PRDC_K = 5  # Naeem et al.
# Squared distances come out of float64 products of up to 4096 terms: equal ones differ
# by less than this, relative to the squared norms.
_ROUNDING = 1e-13


@dataclasses.dataclass(frozen=True)
class PrecisionRecall(Metric):
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

    paired = True
    keeps = ("vector", "label")

    def compute(self, real: Any, fake: Any, progress: Progress = silent) -> Measured:
        """{"improved_precision", "improved_recall", "prdc_...", "density", "coverage"}.

        And {"improved_recall/3"} of the reals of class 3, and so on, if there are any.

        Raises:
          MetricError: There are five or fewer fakes or reals.
        """
        reals = join_pieces(real, "vector", "real")
        fakes = join_pieces(fake, "vector", "fake")
        for what, x in (("real", reals), ("fake", fakes)):
            if len(x) <= _PRDC_K:
                raise MetricError(
                    f"{len(x)} {what} images: neighbours need more than {_PRDC_K}"
                )
        centre = _centre(reals)
        with jax.enable_x64(True):
            real_points = _points(reals, centre, progress, "blocks of real pairs")
            fake_points = _points(fakes, centre, progress, "blocks of fake pairs")
            values, recalled = _shares(real_points, fake_points, progress)
        label = join_pieces(real, "label", "real")
        classes = np.unique(label) if label.any() else ()
        recall = {k: float(recalled[label == k].mean()) for k in classes}
        return Measured(values | {f"improved_recall/{k}": v for k, v in recall.items()})


class _Points(NamedTuple):
    """Features relative to a common centre, and the balls around them.

    Attributes:
      norm: Their squared norms.
      radii: Squared radii of the balls: a row for each point, a column for each k.
    """

    x: Array
    norm: Array
    radii: Any = None


def _centre(x: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, " d"]:
    """A median of each feature: relative to it, products lose the fewest digits.

    It is one of the values, so differences of integers remain integers.
    """
    some = x[:: -(-len(x) // 1000)].astype(np.float64)
    return np.sort(some, axis=0)[(len(some) - 1) // 2]


def _points(
    x: Float[np.ndarray, "n d"],
    centre: Float64[np.ndarray, " d"],
    progress: Progress,
    what: str,
) -> _Points:
    centred = jnp.asarray(x.astype(np.float64) - centre)
    points = _Points(centred, jnp.sum(centred**2, axis=1))
    blocks = progress(row_blocks(len(x), len(x)), what)
    radii = [_radii(points, *block) for block in blocks]
    return points._replace(radii=jnp.concatenate(radii))


def _shares(
    real: _Points, fake: _Points, progress: Progress
) -> tuple[dict[str, float], Bool[np.ndarray, " n"]]:
    """The numbers, and whether each real is in the first ball of a fake."""
    n, m = len(real.x), len(fake.x)
    precise, counts, recalled = np.zeros((2, m), bool), np.zeros(3, int), []
    for block in progress(row_blocks(n, m), "blocks of real and fake pairs"):
        inside, in_fake, count = _inside(real, fake, *block)
        precise |= np.asarray(inside)
        counts += np.asarray(count)
        recalled.append(np.asarray(in_fake))
    prdc, covered, pairs = counts
    improved = np.concatenate(recalled)
    values = {
        "improved_precision": float(precise[0].mean()),
        "improved_recall": float(improved.mean()),
        "prdc_precision": float(precise[1].mean()),
        "prdc_recall": float(prdc / n),
        "density": float(pairs / (_PRDC_K * m)),
        "coverage": float(covered / n),
    }
    return values, improved


def _rows(points: _Points, start: Any, size: int) -> _Points:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), points)


def _squared(a: _Points, b: _Points) -> tuple[Array, Array]:
    """Squared distances, and by how much rounding may move them."""
    norms = a.norm[:, None] + b.norm[None, :]
    return norms - 2 * (a.x @ b.x.T), _ROUNDING * norms


@partial(jax.jit, static_argnames="size")
def _radii(points: _Points, start: Any, size: int) -> Array:
    """Squared distances to the k-th nearest other points, for a block of rows."""
    squared, _ = _squared(_rows(points, start, size), points)
    columns = jnp.arange(len(points.x))[None, :]
    nearest, kth = start + jnp.arange(size), {}
    # removing the nearest k times is 3 to 20 times faster than a sort on a CPU
    for k in range(1, _PRDC_K + 1):
        squared = jnp.where(columns == nearest[:, None], jnp.inf, squared)
        nearest = jnp.argmin(squared, axis=1)
        kth[k] = jnp.min(squared, axis=1)
    return jnp.stack([kth[_IMPROVED_K], kth[_PRDC_K]], axis=1)


@partial(jax.jit, static_argnames="size")
def _inside(
    real: _Points, fake: _Points, start: Any, size: int
) -> tuple[Array, Array, Array]:
    """Compares a block of reals with all fakes.

    Returns whether each fake is in a ball of these reals, by the radii of both k;
    whether each real is in the first ball of a fake; and three counts: the reals that
    are in the second ball of a fake, the reals whose second ball holds a fake, and the
    pairs of a fake and a second ball that holds it.
    """
    real = _rows(real, start, size)
    squared, rounding = _squared(real, fake)
    in_real, in_fake = (
        (squared <= improved + rounding, squared < prdc - rounding)
        for improved, prdc in (real.radii.T[:, :, None], fake.radii.T[:, None, :])
    )
    inside = jnp.stack([ball.any(axis=0) for ball in in_real])
    counts = [ball.any(axis=1).sum() for ball in (in_fake[1], in_real[1])]
    return inside, in_fake[0].any(axis=1), jnp.stack([*counts, in_real[1].sum()])
