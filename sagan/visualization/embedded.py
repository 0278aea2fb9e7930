"""Pictures embedded in a page as data URIs."""

import base64
import io
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sagan.sampling.grid import to_pillow


class EmbeddedPicture(NamedTuple):
    """A picture as a data URI."""

    uri: str
    width: int
    height: int
    caption: str


def embed(
    pixels: UInt8[np.ndarray, "h w c"], caption: str, most: int | None = None
) -> EmbeddedPicture:
    """A PNG; if that has more than `most` characters, a JPEG, shrunk until it fits."""
    image = to_pillow(pixels)
    data, kind = _encode(image, "PNG", optimize=True), "png"
    most = len(data) if most is None else most * 3 // 4  # base64 takes 4 for 3 bytes
    while len(data) > most and min(image.size) > 1:
        data, kind = _encode(image, "JPEG", quality=88), "jpeg"
        if len(data) > most:
            factor = max(0.1, math.sqrt(most / len(data)) * 0.9)
            width, height = (max(1, int(side * factor)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return EmbeddedPicture(uri, *image.size, caption)


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
