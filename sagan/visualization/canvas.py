"""Images, heat maps and words on a canvas: plain pixels, quick for any number."""

import functools

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from sagan.sampling.attention_maps import AttentionGrid
from sagan.visualization.picture import enlargement, font

# Okabe and Ito's palette, told apart by people who see fewer colours too
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7")
LINE = 14  # pixels from one line of words to the next
_WORDS = 10
SIDE = 96  # pixels that an image takes at least


@functools.cache
def _palette() -> UInt8[np.ndarray, "256 3"]:
    from matplotlib import colormaps

    return np.round(colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8)


def heat(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours of numbers from 0 to 1, dark to bright."""
    return _palette()[np.round(np.clip(values, 0, 1) * 255).astype(int)]


def heat_map(
    row: Float[np.ndarray, " i"], grid: AttentionGrid
) -> UInt8[np.ndarray, "h w 3"]:
    """A row of beta over the enlarged image, brightest at its largest share.

    A key covers the 2x2 positions that it is pooled from, without smoothing. An odd
    last row or column of positions has no key and is black.
    """
    pixels = grid.size * enlargement(grid.size, SIDE)
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
        self._draw.text((x, y), words, "black", font(_WORDS), anchor=anchor)

    def dot(self, x: float, y: float, number: int) -> None:
        """Draws the mark of query `number`, in its colour, with the number from 1."""
        colour = COLOURS[number % len(COLOURS)]
        self._draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour, outline="black")
        self._draw.text((x, y), str(number + 1), "black", font(_WORDS), anchor="mm")

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
