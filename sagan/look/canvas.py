"""Images, heat maps and words on a canvas: plain pixels, quick for any number."""

import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from sagan.maps import Grid
from sagan.workdir import naming

# Okabe and Ito's palette, told apart by people who see fewer colours too
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7")
LINE = 14  # pixels from one line of words to the next
_SIDE = 96  # pixels that an image takes at least


def enlargement(size: int) -> int:
    """The whole factor by which an image of this size is drawn."""
    return -(-_SIDE // size)


def enlarged(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "hh ww 3"]:
    """In colour; every pixel becomes a square."""
    by = enlargement(len(image))
    colour = np.broadcast_to(image, (*image.shape[:2], 3))
    return np.repeat(np.repeat(colour, by, axis=0), by, axis=1)


@functools.cache
def _palette() -> UInt8[np.ndarray, "256 3"]:
    from matplotlib import colormaps

    return np.round(colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8)


def heat(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours of numbers from 0 to 1, dark to bright."""
    return _palette()[np.round(np.clip(values, 0, 1) * 255).astype(int)]


def heat_map(row: Float[np.ndarray, " i"], grid: Grid) -> UInt8[np.ndarray, "h w 3"]:
    """A row of beta over the enlarged image, brightest at its largest share.

    A key covers the 2x2 positions that it is pooled from, without smoothing. An odd
    last row or column of positions has no key and is black.
    """
    pixels = grid.size * enlargement(grid.size)
    position = np.arange(pixels) * grid.queries // pixels
    shares = (row / row.max()).reshape(grid.keys, grid.keys)
    shares = np.pad(shares, (0, grid.queries % 2))
    return heat(shares[np.ix_(position // 2, position // 2)])


class Canvas:
    """A white picture to draw on; places are (x, y) from the top left, in pixels."""

    def __init__(self, width: int, height: int):
        self._image = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self._image)

    def picture(self, x: int, y: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Puts a picture with its top left corner there."""
        self._image.paste(Image.fromarray(picture), (x, y))

    def words(self, x: int, y: int, words: str, *, anchor: str = "la") -> None:
        """Writes one line; Pillow's anchors say which of its corners is there."""
        font = ImageFont.load_default(11)  # Pillow's own: the same everywhere
        self._draw.text((x, y), words, fill="black", font=font, anchor=anchor)

    def dot(self, x: float, y: float, number: int) -> None:
        """Draws the mark of query `number`, in its colour, with the number from 1."""
        colour = COLOURS[number % len(COLOURS)]
        self._draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour, outline="black")
        font = ImageFont.load_default(10)
        place = (x, y)
        self._draw.text(place, str(number + 1), fill="black", font=font, anchor="mm")

    def frame(self, x: int, y: int, side: int, number: int) -> None:
        """Draws a frame in the colour of query `number` around a square picture."""
        corners = (x - 2, y - 2, x + side + 1, y + side + 1)
        self._draw.rectangle(corners, outline=COLOURS[number % len(COLOURS)], width=2)

    def colour_scale(self, x: int, y: int, width: int, largest: float) -> None:
        """Draws the colours from 0 to the largest share, which is written below."""
        self.picture(x, y, heat(np.tile(np.linspace(0, 1, width), (6, 1))))
        self.words(x, y + 7, "0")
        self.words(x + width, y + 7, f"{largest:.1%}", anchor="ra")

    def done(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture."""
        return np.asarray(self._image)


def save(path: Path, picture: UInt8[np.ndarray, "h w c"]) -> None:
    """Writes a PNG, whole or not at all; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = picture.shape[-1] == 1
    encoded = io.BytesIO()
    Image.fromarray(picture[..., 0] if grey else picture).save(encoded, "PNG")
    unfinished = path.with_suffix(".unfinished")
    with naming(path):
        unfinished.write_bytes(encoded.getvalue())
        os.replace(unfinished, path)


def labelled_rows(
    rows: Sequence[tuple[str, UInt8[np.ndarray, "n h w c"]]], gap: int = 4
) -> UInt8[np.ndarray, "height width 3"]:
    """Enlarged images, a row for each label, which stands at its left."""
    images = [[enlarged(image) for image in row] for _, row in rows]
    side, columns = len(images[0][0]), max(map(len, images))
    margin = 10 + 7 * max(len(label) for label, _ in rows)
    canvas = Canvas(margin + columns * (side + gap), len(rows) * (side + gap))
    for i, ((label, _), row) in enumerate(zip(rows, images, strict=True)):
        y = i * (side + gap)
        canvas.words(4, y + side // 2, label, anchor="lm")
        for j, image in enumerate(row):
            canvas.picture(margin + j * (side + gap), y, image)
    return canvas.done()
