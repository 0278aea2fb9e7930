"""The interface of every metric: empty, update, compute."""

import dataclasses
import re
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from sagan.config.schema import ConfigError
from sagan.runtime.progress import Progress, silent


class MetricError(ConfigError):
    """A number is not defined for these images; the message says why."""


class Extracted(NamedTuple):
    """Images, and a feature network's outputs for them.

    Attributes:
      image: The pixels.
      label: Classes that were requested, or that the data set gives; 0 without classes.
      vector: The features.
      logits: Logits of the feature network's classes; no columns if it has none.
    """

    image: UInt8[np.ndarray, "n h w c"]
    label: Int32[np.ndarray, " n"]
    vector: Float32[np.ndarray, "n d"]
    logits: Float32[np.ndarray, "n k"]


class Measured(NamedTuple):
    """Results of a metric.

    Attributes:
      values: Numbers by name.
      notes: Remarks without which the numbers would mislead.
    """

    values: dict[str, float]
    notes: tuple[str, ...] = ()


ESTIMATE = "estimate"  # for the very numbers of images of the comparison
UPPER = "upper"  # with fewer images, and so too large
MEASURED = "measured"  # with fewer images, or others


class Baseline(NamedTuple):
    """A metric of real images in place of fakes.

    Attributes:
      value: The number; the mean over the draws.
      samples: Number of fakes that it holds for; of a class, if the number is of one.
      reals: Number of reals that it holds for.
      std: Sample standard deviation over the draws; None if there is but one.
      kind: ESTIMATE, UPPER or MEASURED.
    """

    value: float
    samples: int
    reals: int
    std: float | None = None
    kind: str = MEASURED


@dataclasses.dataclass(frozen=True)
class Metric:
    """Numbers that compare a set of generated images with a set of real ones.

    A state is what a metric keeps of the images of one set. It does not depend on how
    the images are cut into pieces. By default it is a tuple of these pieces, with
    nothing copied before `compute`, which is all that such a metric has to define.

    Attributes:
      keeps: Fields of `Extracted` that the default state holds.
      labelled: Whether it needs the labels of both sets.
      paired: Whether it needs as many reals as fakes.
      logits: Required meaning of the logits: "" for any, "classes" for the feature
        network's own, or "labels" for the classes of the data.
      reads_reals: What it needs of the reals: their "images", no more than the
        "moments" of their features, "nothing", or that there are "unseen" ones too.
      featured: Whether it uses the feature network, whose name its numbers then carry.
      in_sample: Names of numbers that mean nothing for reals that a classifier was
        trained on.
      distance: Whether less is better.
      undirected: Whether neither less nor more is better.
      no_baseline: Why reals in place of fakes tell nothing; empty: they do.
      grows_with_samples: Whether its numbers grow with the number of fakes.
      extrapolated: Whether its mean between two sets of one distribution is
        proportional to 1 / reals + 1 / fakes.
      fits_gaussians: Whether it compares fitted Gaussians, whose covariances are
        singular with fewer images than features.
    """

    keeps: ClassVar[tuple[str, ...]] = ("vector",)
    labelled: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    logits: ClassVar[str] = ""
    reads_reals: ClassVar[str] = "images"
    featured: ClassVar[bool] = True
    in_sample: ClassVar[tuple[str, ...]] = ()
    distance: ClassVar[bool] = False
    undirected: ClassVar[bool] = False
    no_baseline: ClassVar[str] = ""
    grows_with_samples: ClassVar[bool] = False
    extrapolated: ClassVar[bool] = False
    fits_gaussians: ClassVar[bool] = False

    def empty(self) -> Any:
        """The state before any image."""
        return ()

    def update(self, state: Any, extracted: Extracted) -> Any:
        """The state after more images.

        Raises:
          MetricError: A feature or logit is not finite.
        """
        check_finite(extracted)
        return (*state, {name: getattr(extracted, name) for name in self.keeps})

    def prepare(self, real: Any) -> Any:
        """Prepares the reals once, for `compute` with any number of sets of fakes.

        By default their state as it is, which `compute` takes in any case.

        Raises:
          MetricError: The numbers are not defined for these reals.
        """
        return real

    def compute(self, real: Any, fake: Any, progress: Progress = silent) -> Measured:
        """Compares the fakes with the reals: with their state, or as prepared.

        Raises:
          MetricError: The numbers are not defined for these sets.
        """
        raise NotImplementedError


def is_spread(name: str) -> bool:
    """Whether a number is a deviation or an error of another."""
    return re.match(r"(kid|is|fi?d_infinity)_std(_|$)", name) is not None


def join_pieces(state: tuple[dict[str, np.ndarray], ...], name: str, what: str) -> Any:
    """Concatenates one field of all pieces of a default state.

    Raises:
      MetricError: There are no images in this set, which `what` names.
    """
    if not any(len(piece[name]) for piece in state):
        raise MetricError(f"there are no {what} images")
    return np.concatenate([piece[name] for piece in state])


def check_finite(extracted: Extracted) -> None:
    """Raises MetricError if a feature or a logit is NaN or infinite."""
    for name in ("vector", "logits"):
        rows = np.isfinite(getattr(extracted, name)).all(axis=1)
        if not rows.all():
            bad = int(np.argmin(rows))
            raise MetricError(
                f"{name} of the feature network: not finite for {(~rows).sum()} of"
                f" {len(rows)} images, image {bad} first"
            )


def row_blocks(n: int, columns: int) -> list[tuple[int, int]]:
    """Start and size of blocks of rows of an n x columns matrix, each up to 128 MiB.

    All but the last have the same size, so a function of a block compiles only twice.
    """
    rows = max(1, min(n, 2**24 // columns))
    return [(start, min(rows, n - start)) for start in range(0, n, rows)]
