"""Gaussians fitted to features, and the Fréchet distance between two of them."""

import dataclasses
import math

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float64

from sagan.metrics.interface import MetricError

_ROWS = 4096  # rows in float64 at a time


@dataclasses.dataclass(frozen=True)
class Moments:
    """Number, mean and scatter of features, in float64.

    Attributes:
      n: Number of feature vectors.
      mean: Their mean.
      scatter: Sum of outer products of the centred vectors: n - 1 times the covariance.
    """

    n: int
    mean: Float64[np.ndarray, " d"]
    scatter: Float64[np.ndarray, "d d"]


NOTHING = Moments(0, np.zeros(0), np.zeros((0, 0)))


def moments(x: Float[np.ndarray, "n d"]) -> Moments:
    """Moments of features, centred block by block: a large mean costs no digits."""
    total = NOTHING
    for start in range(0, len(x), _ROWS):
        block = x[start : start + _ROWS].astype(np.float64)
        mean = block.mean(axis=0)
        centred = block - mean
        total = merge(total, Moments(len(block), mean, centred.T @ centred))
    return total


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the union of two sets.

    Source: Chan, Golub & LeVeque 1979, Updating formulae and a pairwise algorithm for
    computing sample variances.
    """
    if not a.n or not b.n:
        return a if a.n else b
    n = a.n + b.n
    delta = b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(delta, delta) * (a.n * b.n / n)
    return Moments(n, a.mean + delta * (b.n / n), scatter)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A Gaussian with the covariance factor @ factor.T, of any rank.

    The distance needs square roots. With factors they are singular values, never roots
    of eigenvalues that rounding has made negative.
    """

    mean: Float64[np.ndarray, " d"]
    factor: Float64[np.ndarray, "d r"]


def from_features(x: Float[np.ndarray, "n d"], what: str) -> Gaussian:
    """Fits a Gaussian to features; makes no d x d matrix for n <= d.

    Raises:
      MetricError: There are fewer than two; `what` names the set.
    """
    n, d = x.shape
    if n > d:
        return from_moments(moments(x), what)
    _check_number(n, what)
    x = x.astype(np.float64)
    mean = x.mean(axis=0)
    return Gaussian(mean, (x - mean).T / math.sqrt(n - 1))


def covariance(moments: Moments, what: str) -> Float64[np.ndarray, "d d"]:
    """The covariance of `np.cov`, over n - 1.

    Raises:
      MetricError: There are fewer than two features; `what` names the set.
    """
    _check_number(moments.n, what)
    return moments.scatter / (moments.n - 1)


def from_moments(moments: Moments, what: str) -> Gaussian:
    """The Gaussian of moments, with the covariance of `np.cov`.

    n features span n - 1 directions; the other eigenvalues are rounding, and left out.

    Raises:
      MetricError: There are fewer than two features; `what` names the set.
    """
    d = len(moments.mean)
    rank = min(d, moments.n - 1)
    values, vectors = scipy.linalg.eigh(
        covariance(moments, what), subset_by_index=(d - rank, d - 1)
    )
    return Gaussian(moments.mean, vectors * np.sqrt(np.clip(values, 0, None)))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    With C = F F^T the trace of the root is the sum of the singular values of F_a^T F_b,
    for any ranks. Never NaN; for equal Gaussians 0 up to rounding, of either sign.

    Source: Heusel et al. 2017 (arXiv:1706.08500), eq. 6 (Dowson & Landau 1982).
    """
    delta = a.mean - b.mean
    traces = np.sum(a.factor**2) + np.sum(b.factor**2)
    root = np.sum(scipy.linalg.svdvals(a.factor.T @ b.factor))
    return float(delta @ delta + traces - 2 * root)


def distance_to_moments(a: Gaussian, b: Moments) -> float:
    """frechet_distance to the Gaussian of moments, without its factor.

    Takes a third of the time. If b is singular, each missing direction costs some 1e-8
    of the largest variance: enough where numbers are averaged.
    """
    delta, of_b = a.mean - b.mean, covariance(b, "fake")
    squares = scipy.linalg.eigvalsh(a.factor.T @ of_b @ a.factor)
    root = np.sum(np.sqrt(np.clip(squares, 0, None)))
    traces = np.sum(a.factor**2) + np.trace(of_b)
    return float(delta @ delta + traces - 2 * root)


def _check_number(n: int, what: str) -> None:
    if n < 2:
        raise MetricError(
            f"a covariance needs at least 2 images, and the {what} ones are {n}"
        )
