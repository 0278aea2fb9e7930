"""How near samples are to the training images, beside images never trained on."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float64, Int32

from sagan.metrics.interface import (
    Extracted,
    Measured,
    Metric,
    MetricError,
    join_pieces,
    row_blocks,
)
from sagan.runtime.progress import Progress, silent


class Searched(NamedTuple):
    """Training images, and how far from them held-out images are.

    Attributes:
      vector: Features of the training images.
      distance: Distance of each held-out image to the nearest of them.
    """

    vector: Float[np.ndarray, "n d"]
    distance: Float64[np.ndarray, " m"]


@dataclasses.dataclass(frozen=True)
class Memorisation(Metric):
    """Distances of samples to the nearest training image, beside those of test images.

    `memorisation` is the ratio of their medians: about 1 if samples are as novel as
    real images that were not trained on. Copies lower it, and so does everything that
    draws samples towards the middle, such as truncation and averaged weights.
    `memorisation_duplicates` is the share of samples that are nearer than all but 1 %
    of the test images: about 0.01, and more with copies. The test images have the
    samples' shares of classes. Mirrored training images are not searched; the embedded
    networks were trained on the training images, which brings these nearer to test
    images.

    Attributes:
      held_out: Real images that the generator was not trained on, as it was on the
        reals of the comparison; None: there are none.
    """

    held_out: Extracted | None = None
    reads_reals = "unseen"
    undirected = True
    no_baseline = "it is relative to real images already"
    keeps = ("vector", "label")

    def prepare(self, real: Any) -> Searched:
        """Searches for the nearest training image of each held-out one.

        Raises:
          MetricError: There are no held-out images.
        """
        if self.held_out is None:
            raise MetricError("memorisation needs images that were not trained on")
        training = join_pieces(real, "vector", "real")
        return Searched(training, _nearest(self.held_out.vector, training, silent))

    def compute(
        self, real: Searched, fake: Any, progress: Progress = silent
    ) -> Measured:
        """{"memorisation", "memorisation_duplicates"}.

        Raises:
          MetricError: Most held-out images are among the training images.
        """
        fakes, labels = (join_pieces(fake, name, "fake") for name in self.keeps)
        mine = _nearest(fakes, real.vector, progress)
        beside = _with_labels(self.held_out, real.distance, labels)
        median = np.median(beside)
        if not median:
            raise MetricError("most test images are among the training images")
        values = {
            "memorisation": np.median(mine) / median,
            "memorisation_duplicates": np.mean(mine < np.percentile(beside, 1)),
        }
        return Measured({name: float(value) for name, value in values.items()})


def _with_labels(
    held_out: Extracted | None,
    distance: Float64[np.ndarray, " m"],
    labels: Int32[np.ndarray, " n"],
) -> Float64[np.ndarray, " k"]:
    """Distances of held-out images, each class as often as among the labels."""
    known = np.zeros(0, np.int32) if held_out is None else held_out.label
    wanted = np.bincount(labels)
    rows = [np.flatnonzero(known == k) for k in range(len(wanted))]
    chosen = [np.resize(r, n) for r, n in zip(rows, wanted, strict=True) if len(r)]
    return distance[np.concatenate(chosen)] if chosen else distance


def _nearest(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], progress: Progress
) -> Float64[np.ndarray, " n"]:
    """Distance from each row of x to the nearest row of y."""
    centre = y.mean(axis=0, dtype=np.float64)
    with jax.enable_x64(True):
        a, b = (jnp.asarray(part.astype(np.float64) - centre) for part in (x, y))
        blocks = progress(row_blocks(len(x), len(y)), "nearest training images")
        found = [_squared(a, b, *block) for block in blocks]
        return np.sqrt(np.clip(np.concatenate(found), 0, None))


@partial(jax.jit, static_argnames="size")
def _squared(
    x: Float64[Array, "n d"], y: Float64[Array, "m d"], start: Any, size: int
) -> Float64[Array, " k"]:
    rows = lax.dynamic_slice_in_dim(x, start, size)
    squared = jnp.sum(rows**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None, :]
    return jnp.min(squared - 2 * rows @ y.T, axis=1)
