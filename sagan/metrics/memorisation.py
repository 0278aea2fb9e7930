"""How near samples are to the training images, beside images never trained on."""

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


@dataclasses.dataclass(frozen=True)
class Memorisation(Metric):
    """Median distance of samples to the nearest training image, over that of test ones.

    About 1 if samples are as new as real images that were not trained on; well below 1
    if they are copies. Above 1 they are far from all real images. The embedded networks
    were trained on the training images, which brings these nearer to test images than
    the pixels would.

    Attributes:
      held_out: Features of real images that the generator was not trained on, as it was
        on the reals of the comparison; None: there are none.
    """

    held_out: Float[np.ndarray, "m d"] | None = None
    reads_reals = "unseen"
    neither = True
    no_baseline = "it is a ratio to real images already"

    def compute(self, real: Any, fake: Any, progress: Progress = silent) -> Measured:
        """{"memorisation"}.

        Raises:
          MetricError: There are no held-out images, or their median distance is 0.
        """
        if self.held_out is None:
            raise MetricError("memorisation needs images that were not trained on")
        training = join_pieces(real, "vector", "real")
        medians = [
            float(np.median(_nearest(x, training, progress)))
            for x in (join_pieces(fake, "vector", "fake"), self.held_out)
        ]
        if not medians[1]:
            raise MetricError("most test images are among the training images")
        return Measured({"memorisation": medians[0] / medians[1]})


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
