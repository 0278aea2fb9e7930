"""Many images as one."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8


def grid(
    images: UInt8[np.ndarray, "n h w c"], columns: int, gap: int = 2
) -> UInt8[np.ndarray, "height width c"]:
    """The images row by row; gaps, and the places of missing ones, are white."""
    n, h, w, c = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    tiles = np.full((rows * columns, h + gap, w + gap, c), 255, np.uint8)
    tiles[:n, :h, :w] = images
    tiles = tiles.reshape(rows, columns, h + gap, w + gap, c).swapaxes(1, 2)
    picture = tiles.reshape(rows * (h + gap), columns * (w + gap), c)
    return picture[: rows * (h + gap) - gap, : columns * (w + gap) - gap]
