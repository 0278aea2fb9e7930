"""What a metric is: empty, update, merge, compute."""

import dataclasses
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8

from sagan.config.schema import ConfigError
from sagan.runtime.progress import Progress, silent


class MetricError(ConfigError):
    """These images have no such number: the message says why."""


class Seen(NamedTuple):
    """Images, and what a feature network says of them.

    Attributes:
      image: pixels.
      label: the classes that were asked for, or that the data set gives; 0 if none.
      vector: the features.
      logits: of the feature network's own classes; no columns if it has none.
    """

    image: UInt8[np.ndarray, "n h w c"]
    label: Int32[np.ndarray, " n"]
    vector: Float32[np.ndarray, "n d"]
    logits: Float32[np.ndarray, "n k"]


class Measured(NamedTuple):
    """What a metric says.

    Attributes:
      values: the numbers by name.
      notes: what must be known beside them.
    """

    values: dict[str, float]
    notes: tuple[str, ...] = ()


@runtime_checkable
class Metric(Protocol):
    """A number of a set of fakes beside a set of reals.

    A state holds what the images of one set leave behind. States are merged in order,
    and the merged state says what the state of all images in one pass says.

    Attributes:
      labelled: needs the labels of fakes and reals.
      paired: needs as many reals as fakes.
      logits: what the logits must be: "" anything, "classes", or "labels": the classes
        of the data.
      featured: compares by the feature network, whose name its numbers then carry.
      in_sample: numbers that say nothing of reals which a classifier was trained on.
    """

    labelled: bool
    paired: bool
    logits: str
    featured: bool
    in_sample: ClassVar[tuple[str, ...]]

    def empty(self) -> Any:
        """The state of no images."""
        ...

    def update(self, state: Any, seen: Seen) -> Any:
        """The state with more images.

        Raises:
          MetricError: a feature or logit is not finite.
        """
        ...

    def merge(self, first: Any, second: Any) -> Any:
        """The state of the images of both, the first one's first."""
        ...

    def compute(self, real: Any, fake: Any, progress: Progress = silent) -> Measured:
        """The numbers of one set beside the other.

        Raises:
          MetricError: these sets have no such number.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Collecting:
    """The first three parts of a metric whose state is the features themselves.

    The state is a tuple of pieces with the fields of `Seen` that are named in `keeps`;
    nothing is copied before `compute`.
    """

    keeps = ("vector",)
    logits = ""
    featured = True
    in_sample: ClassVar[tuple[str, ...]] = ()

    def empty(self) -> tuple[dict[str, np.ndarray], ...]:
        """No pieces."""
        return ()

    def update(
        self, state: tuple[dict[str, np.ndarray], ...], seen: Seen
    ) -> tuple[dict[str, np.ndarray], ...]:
        """One piece more."""
        check_finite(seen)
        return (*state, {name: getattr(seen, name) for name in self.keeps})

    def merge(
        self,
        first: tuple[dict[str, np.ndarray], ...],
        second: tuple[dict[str, np.ndarray], ...],
    ) -> tuple[dict[str, np.ndarray], ...]:
        """The pieces of both."""
        return first + second


def gather(state: tuple[dict[str, np.ndarray], ...], name: str, what: str) -> Any:
    """One field of all pieces as one array.

    Raises:
      MetricError: there is no image; `what` names the set.
    """
    if not any(len(piece[name]) for piece in state):
        raise MetricError(f"there are no {what} images")
    return np.concatenate([piece[name] for piece in state])


def check_finite(seen: Seen) -> None:
    """Raises MetricError where features are not numbers."""
    for name in ("vector", "logits"):
        rows = np.isfinite(getattr(seen, name)).all(axis=1)
        if not rows.all():
            bad = int(np.argmin(rows))
            raise MetricError(
                f"{name} of the feature network: not finite for {(~rows).sum()} of"
                f" {len(rows)} images, image {bad} first"
            )


def as_float64(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Features in the precision that every sum here is taken in."""
    return np.asarray(x, np.float64)


def row_blocks(n: int, columns: int) -> list[tuple[int, int]]:
    """(first row, rows) of the blocks of an n x columns matrix; 128 MiB at most each.

    All but the last have as many rows, so that a function of a block compiles twice.
    """
    rows = max(1, min(n, 2**24 // columns))
    return [(start, min(rows, n - start)) for start in range(0, n, rows)]
