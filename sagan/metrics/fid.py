"""FID over all images, extrapolated to infinitely many, and within each class."""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sagan.metrics import gaussian
from sagan.metrics.interface import (
    Extracted,
    Measured,
    Metric,
    MetricError,
    check_finite,
    join_pieces,
)
from sagan.runtime.progress import Progress, silent


@dataclasses.dataclass(frozen=True)
class FrechetDistance(Metric):
    """FID: the Fréchet distance of Gaussians fitted to the features of both sets.

    It falls as either set grows: compare only equal numbers of images.

    Source: Heusel et al. 2017 (arXiv:1706.08500). Covariances are divided by n - 1 and
    no epsilon is added to their diagonals, as in torch-fidelity; TTUR's `fid.py` adds
    one if its matrix root fails, which `gaussian.frechet_distance` cannot.
    """

    reads_reals = "moments"
    distance = True
    extrapolated = True
    fits_gaussians = True

    def empty(self) -> gaussian.Moments:
        return gaussian.NOTHING

    def update(self, state: gaussian.Moments, extracted: Extracted) -> gaussian.Moments:
        check_finite(extracted)
        return gaussian.merge(state, gaussian.moments(extracted.vector))

    def prepare(self, real: Any) -> gaussian.Gaussian:
        return _gaussian_of(real)

    def compute(
        self,
        real: gaussian.Moments | gaussian.Gaussian,
        fake: gaussian.Moments,
        progress: Progress = silent,
    ) -> Measured:
        """{"fid"}."""
        del progress
        fakes = gaussian.from_moments(fake, "fake")
        reals = _gaussian_of(real)
        return Measured({"fid": gaussian.frechet_distance(reals, fakes)})


def _gaussian_of(real: Any) -> gaussian.Gaussian:
    """The Gaussian of reals: prepared, or of their moments, or of their features."""
    if isinstance(real, gaussian.Gaussian):
        return real
    if isinstance(real, gaussian.Moments):
        return gaussian.from_moments(real, "real")
    return gaussian.from_features(join_pieces(real, "vector", "real"), "real")


_POINTS = 15  # numbers of fakes, as in the authors' code
_LEAST = 200  # fakes: the smallest subset then holds 20
_ORDERS = 4  # of the fakes, averaged
_GROUPS = 5  # of the jackknife


@dataclasses.dataclass(frozen=True)
class FrechetInfinity(Metric):
    """FID extrapolated to infinitely many fakes: a line fitted over 1/N, at 1/N = 0.

    The FIDs are those of the first n/10 to n fakes, in random orders, against all
    reals. The bias by the number of reals remains: use many reals, and always the same.
    `fid_infinity_std` is the standard error by the fakes, from a jackknife over fifths
    of them: up to twice too large, and without the bias of the extrapolation.

    Source: Chong & Forsyth 2020 (arXiv:1911.07023), section 4. The authors prefer
    latents from a Sobol sequence; here any fakes will do.
    """

    reads_reals = "moments"
    distance = True
    no_baseline = "fewer images are extrapolated less well"

    def prepare(self, real: Any) -> gaussian.Gaussian:
        return _gaussian_of(real)

    def compute(self, real: Any, fake: Any, progress: Progress = silent) -> Measured:
        """{"fid_infinity", "fid_infinity_std"}.

        Raises:
          MetricError: There are fewer than 200 fakes or two reals.
        """
        fakes = join_pieces(fake, "vector", "fake")
        n, d = fakes.shape
        if n < _LEAST:
            raise MetricError(f"{n} fake images: fid_infinity needs at least {_LEAST}")
        reals = _gaussian_of(real)
        rng = np.random.default_rng(0)
        orders = [rng.permutation(n) for _ in range(_ORDERS)]
        group = np.arange(n) % _GROUPS
        without = [orders[0][group != i] for i in range(_GROUPS)]
        fits = [(order, _POINTS) for order in orders]
        fits += [(order, _GROUPS) for order in without]
        found = [
            _at_infinity(reals, fakes, order, points)
            for order, points in progress(fits, "orders of the fakes")
        ]
        error = np.sqrt(_GROUPS - 1) * np.std(found[_ORDERS:])
        notes = ()
        if n // 10 < 4 * d:
            notes = (
                f"fid_infinity: its smallest subset has {n // 10} fakes for {d}"
                f" features; below {4 * d} the linear extrapolation is unreliable",
            )
        values = {"fid_infinity": np.mean(found[:_ORDERS]), "fid_infinity_std": error}
        return Measured({name: float(value) for name, value in values.items()}, notes)


def _at_infinity(
    reals: gaussian.Gaussian,
    fakes: Float[np.ndarray, "n d"],
    order: Int[np.ndarray, " m"],
    points: int,
) -> float:
    """The line's value at 1/N = 0, for the first fakes of an order."""
    numbers = np.linspace(len(order) // 10, len(order), points).astype(int)
    total, fids = gaussian.NOTHING, []
    for start, end in itertools.pairwise([0, *numbers]):
        total = gaussian.merge(total, gaussian.moments(fakes[order[start:end]]))
        fids.append(gaussian.distance_to_moments(reals, total))
    return float(np.polyfit(1 / numbers, fids, 1)[1])


@dataclasses.dataclass(frozen=True)
class IntraClass(Metric):
    """FID within each class, and its mean over the classes.

    A class rarely has as many images as there are features; its covariance is then
    singular, and its FID is biased upwards. Compare only equal numbers of images.

    Source: Miyato & Koyama 2018 (arXiv:1802.05637), section 4.1.
    """

    keeps = ("vector", "label")
    labelled = True
    distance = True
    extrapolated = True
    fits_gaussians = True

    def compute(self, real: Any, fake: Any, progress: Progress = silent) -> Measured:
        """{"ifid"}, the mean, and {"ifid/3"} for class 3, and so on.

        Classes with fewer than two fakes or reals are left out, and noted.

        Raises:
          MetricError: No class has two of both.
        """
        reals, fakes = _by_class(real, "real"), _by_class(fake, "fake")
        nothing = np.zeros((0, 1), np.float32)
        values, without = {}, []
        for label in progress(sorted(reals.keys() | fakes.keys()), "classes"):
            x, g = reals.get(label, nothing), fakes.get(label, nothing)
            if len(x) < 2 or len(g) < 2:
                without.append(f"class {label} ({len(g)} fake, {len(x)} real)")
                continue
            values[f"ifid/{label}"] = gaussian.frechet_distance(
                gaussian.from_features(x, "real"), gaussian.from_features(g, "fake")
            )
        named = ", ".join(without)
        if not values:
            raise MetricError(f"ifid needs 2 fakes and 2 reals of a class: {named}")
        notes = (f"ifid is without {named}: fewer than 2",) if without else ()
        return Measured({"ifid": float(np.mean([*values.values()])), **values}, notes)


def _by_class(state: Any, what: str) -> dict[int, np.ndarray]:
    """Features by class, in the order of the images."""
    vectors, labels = (join_pieces(state, k, what) for k in ("vector", "label"))
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    parts = np.split(vectors[order], starts[1:])
    return dict(zip(classes.tolist(), parts, strict=True))
