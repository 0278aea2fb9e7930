"""Grids of images, and images as PNG."""

import io
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from sagan.runtime.progress import printable
from sagan.sampling.layout import Panel, Sheet, shorten

_MOST = 20  # images beside a class's name


def image_grid(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Sequence[int] | Int[np.ndarray, " n"] = (),
    names: Sequence[str] = (),
) -> UInt8[np.ndarray, "height width 3"]:
    """One picture of many images, with squares of 64 pixels or more.

    With names, each row has images of one class, and a class of many has several; with
    about one image of a class, its name is below it. Without names they fill a square,
    row by row.

    Args:
      images: Of any size.
      labels: Their classes.
      names: Names of the classes; empty: there are none.
    """
    n, classes = len(images), [int(k) for k in labels] if names else []
    shown = sorted(set(classes))
    beside: list[str] = []
    if 0 < 2 * len(shown) <= n:
        rows = []
        for k in shown:
            of_class = np.flatnonzero(np.array(classes) == k)
            lines = [of_class[i : i + _MOST] for i in range(0, len(of_class), _MOST)]
            rows += lines
            beside += [names[k], *[""] * (len(lines) - 1)]
    else:
        side = math.isqrt(max(n, 1) - 1) + 1
        rows = [np.arange(i, min(i + side, n)) for i in range(0, n, side)]
    columns = max(map(len, rows))
    tiles = np.full((len(rows), columns, *images.shape[1:]), 255, np.uint8)
    for i, row in enumerate(rows):
        tiles[i, : len(row)] = images[row]
    below: list[list[str]] = []
    if shown and not beside:
        below = [[shorten(names[classes[j]], 10) for j in row] for row in rows]
        below[-1] += [""] * (columns - len(below[-1]))
    panel = Panel("", tiles, rows=beside, captions=below)
    return Sheet([panel], "").picture


def class_titles(classes: int | None, names: Sequence[str]) -> list[str]:
    """The titles of the classes in a picture; empty if there are none.

    Args:
      classes: Their number.
      names: Their names; other than `classes` of them if they are not known.
    """
    known = names if len(names) == classes else map(str, range(classes or 0))
    return [f"class {x}" if x.isdecimal() else printable(x) for x in known]


def to_pillow(image: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """A Pillow image of mode L (one channel) or RGB."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def png(image: UInt8[np.ndarray, "h w c"], format: str = "PNG") -> bytes:
    """The image encoded as PNG or in another format, in grey if it has one channel."""
    encoded = io.BytesIO()
    to_pillow(image).save(encoded, format, quality=95)
    return encoded.getvalue()
