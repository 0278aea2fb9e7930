"""Runs a network over many images: one compilation, all devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, PyTree, UInt8

from sagan.metrics.interface import MetricError
from sagan.runtime.compilation import cpu_compiler_options
from sagan.runtime.devices import padded_batches
from sagan.runtime.progress import Progress, silent

Outputs = tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "n k"]]
Network = Callable[
    [PyTree, UInt8[Array, "n h w c"]],
    tuple[Float[Array, "n d"], Float[Array, "n k"]],
]


def over_batches(network: Network, variables: PyTree, batch: int) -> Any:
    """A function (images, progress) -> (features, logits) of any number of images.

    Images [n h w c] must be uint8. The last batch is filled up with its own images and
    the surplus dropped; each batch is spread over the devices where they divide it.
    """
    compiled = jax.jit(network, compiler_options=cpu_compiler_options())
    outputs_of = padded_batches(compiled, variables, batch)

    def extract(image: np.ndarray, progress: Progress = silent) -> Outputs:
        if image.dtype != np.uint8:
            raise MetricError(f"images of type {image.dtype}: must be uint8, 0 to 255")
        if not len(image):
            raise MetricError("there are no images")
        starts = progress(range(0, len(image), batch), "features")
        pieces = [outputs_of(image[start : start + batch]) for start in starts]
        vectors, logits = map(np.concatenate, zip(*pieces, strict=True))
        return vectors.astype(np.float32), logits.astype(np.float32)

    return extract
