"""Reference statistics: mean and covariance of the features of real images, as .npz."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8

from sagan.config.schema import ConfigError
from sagan.evaluation.npz import read_npz
from sagan.metrics import gaussian
from sagan.metrics.features import FeatureNetwork
from sagan.runtime import cache
from sagan.runtime.files import make_place, write_arrays

_ASSUMED = 50_000  # images behind a file that does not say how many
_CHECKED = ("features", "features sha256", "image", "resize")
_ROUNDING = 1e-3  # of the largest entry; half precision has 1e-3
_READ = {"mu", "sigma", "count", *_CHECKED}


class Reference(NamedTuple):
    """Statistics of real images.

    Attributes:
      mean: Mean of the features.
      covariance: Their covariance, divided by n - 1.
      count: Number of images; None: the file does not say.
      facts: What the file says of the images and the features, as text.
    """

    mean: Float64[np.ndarray, " d"]
    covariance: Float64[np.ndarray, "d d"]
    count: int | None
    facts: dict[str, str]

    def moments(self) -> gaussian.Moments:
        """As a metric's state; an unknown number of images counts as very many."""
        n = self.count or 2**30
        return gaussian.Moments(n, self.mean, self.covariance * (n - 1))

    def digest(self) -> str:
        """SHA-256 of mean and covariance."""
        return cache.digest(self.mean, self.covariance)


def holds_statistics(path: Path) -> bool:
    """Whether an .npz file has mu and sigma, and no images."""
    try:
        _, names = read_npz(path, lambda names: ())
    except ConfigError:
        return False
    return {"mu", "sigma"} <= set(names) and "arr_0" not in names


def read_reference(path: Path) -> Reference:
    """Reads an .npz file with `mu` [d] and `sigma` [d d], ours or anybody's.

    TTUR, clean-fid, pytorch-fid, ADM and EDM write these names. Files of
    `write_reference` also say how many images there were, and by which features.

    Raises:
      ConfigError: It is no such file.
    """
    arrays, names = read_npz(path, lambda names: _READ & set(names))
    if not {"mu", "sigma"} <= arrays.keys():
        held = ", ".join(names) or "nothing"
        raise ConfigError(f"{path}: holds {held}; must hold mu [d] and sigma [d d]")
    mean, covariance = (arrays[name] for name in ("mu", "sigma"))
    kinds = [np.issubdtype(x.dtype, np.floating) for x in (mean, covariance)]
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or not all(kinds):
        raise ConfigError(
            f"{path}: mu of type {mean.dtype} and shape {mean.shape}, sigma of"
            f" {covariance.dtype} and {covariance.shape}; must be floats [d] and [d d]"
        )
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ConfigError(f"{path}: mu or sigma is not finite")
    single = {k: x for k, x in arrays.items() if x.ndim == 0}
    facts = {k: str(x) for k, x in single.items() if x.dtype.kind == "U"}
    known = "count" in single and single["count"].dtype.kind in "iu"
    reference = Reference(
        mean, covariance, int(single["count"]) if known else None, facts
    )
    if problem := _impossible(reference):
        raise ConfigError(f"{path}: {problem}")
    return reference


def _impossible(reference: Reference) -> str:
    """Why no features have these statistics; empty: some may."""
    covariance = reference.covariance
    if not len(covariance):
        return "mu and sigma are of no features; must be of at least one"
    least = covariance.diagonal().min()
    if least < 0:
        return f"sigma has the variance {least:g}; must be at least 0"
    largest = np.abs(covariance - covariance.T).max()
    if largest > _ROUNDING * np.abs(covariance).max():
        return f"sigma is not symmetric: entries differ by up to {largest:g}"
    if reference.count is not None and reference.count < 2:
        return f"count {reference.count}; must be at least 2"
    return ""


def write_reference(
    path: Path,
    found: gaussian.Moments,
    image: UInt8[np.ndarray, "n h w c"],
    network: FeatureNetwork,
) -> None:
    """Writes mu, sigma, the number of images, and facts that `check_reference` reads.

    Args:
      path: The .npz file.
      found: Moments of the features.
      image: One or more of the images.
      network: The feature network.

    Raises:
      ConfigError: The file cannot be written.
      MetricError: There are fewer than two images.
    """
    make_place(path, is_file=True)
    covariance = gaussian.covariance(found, "real")
    arrays: dict[str, Any] = {"mu": found.mean, "sigma": covariance, "count": found.n}
    facts = image_facts(image, network)
    write_arrays(path, {k: np.asarray(x) for k, x in (arrays | facts).items()})


def image_facts(
    image: UInt8[np.ndarray, "n h w c"], network: FeatureNetwork
) -> dict[str, str]:
    """Facts that must be equal for statistics of images to be comparable."""
    return {
        "image": _shape(image),
        "features": network.name,
        "features sha256": network.digest,
        **network.about,
    }


def check_size(reference: Reference, image: UInt8[np.ndarray, "n h w c"]) -> None:
    """Raises ConfigError if the statistics are of images of another size."""
    _compare(reference, "image", _shape(image))


def check_reference(
    reference: Reference, image: UInt8[np.ndarray, "n h w c"], network: FeatureNetwork
) -> None:
    """Raises ConfigError if the statistics are of other features or another size.

    Args:
      reference: The statistics.
      image: One or more images of the size that is evaluated.
      network: The feature network.
    """
    mine = image_facts(image, network)
    for name in _CHECKED:
        _compare(reference, name, mine.get(name, "none"))
    width = network.extract(image[:1])[0].shape[1]
    if width != len(reference.mean):
        raise ConfigError(
            f"the statistics are of {len(reference.mean)} features; {network.name} has"
            f" {width}; see --features"
        )


def _compare(reference: Reference, name: str, mine: str) -> None:
    theirs = reference.facts.get(name)
    if theirs is not None and theirs != mine:
        raise ConfigError(
            f"the statistics have {name} {theirs}, and this evaluation {mine}: they"
            " cannot be compared"
        )


def _shape(image: UInt8[np.ndarray, "n h w c"]) -> str:
    return "x".join(map(str, image.shape[1:]))


def assumed_count(reference: Reference) -> int:
    """The number of images, or what is usual if the file does not say."""
    return reference.count or _ASSUMED
