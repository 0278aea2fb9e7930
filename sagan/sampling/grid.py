"""Grids of images, and images as PNG."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def image_grid(
    images: UInt8[np.ndarray, "n h w c"], columns: int, gap: int = 2
) -> UInt8[np.ndarray, "height width c"]:
    """One image of many, row by row; gaps and empty places are white."""
    n, h, w, c = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    tiles = np.full((rows * columns, h + gap, w + gap, c), 255, np.uint8)
    tiles[:n, :h, :w] = images
    tiles = tiles.reshape(rows, columns, h + gap, w + gap, c).swapaxes(1, 2)
    picture = tiles.reshape(rows * (h + gap), columns * (w + gap), c)
    return picture[: rows * (h + gap) - gap, : columns * (w + gap) - gap]


def to_pillow(image: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """A Pillow image of mode L (one channel) or RGB."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def png(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """The image encoded as PNG, in grey if it has one channel."""
    encoded = io.BytesIO()
    to_pillow(image).save(encoded, "PNG")
    return encoded.getvalue()
