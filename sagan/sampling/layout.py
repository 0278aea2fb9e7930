"""Figures: rows of small images with words beside them."""

import functools
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_CELL = 64  # pixels: smaller images are enlarged to this or a little more
_GAP, _SPACE, _WIDE, _MARGIN = 2, 6, 16, 10
_TEXT, _SMALL = 13, 10
_LONGEST = 28  # characters of a line of a row's label


class Panel(NamedTuple):
    """A block of images in rows and columns.

    Attributes:
      images: Small ones are enlarged by a whole factor.
      rows: Label at the left of each row; may have several lines.
      columns: Heading of each column; an empty one extends the heading before it.
      captions: A short text below each image, row by row; may have several lines.
      breaks: Columns with more room before them.
    """

    title: str
    images: UInt8[np.ndarray, "rows columns h w c"]
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    captions: Sequence[Sequence[str]] = ()
    breaks: Sequence[int] = ()


class Sheet(NamedTuple):
    """A figure of a run, and text about it.

    Attributes:
      panels: Drawn one below the other.
      numbers: Written to a JSON file beside the picture, unless None.
    """

    panels: Sequence[Panel]
    caption: str
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, Any] | None = None

    @property
    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """All panels with their text, in colour."""
        lines = [
            line for panel in self.panels for row in panel.rows for line in _short(row)
        ]
        left = max((_width(line) + _SPACE for line in lines), default=0)
        drawn = [_draw_panel(panel, left) for panel in self.panels]
        width = max(picture.width for picture in drawn) + 2 * _MARGIN
        height = sum(picture.height + _WIDE for picture in drawn) - _WIDE + 2 * _MARGIN
        whole = Image.new("RGB", (width, height), "white")
        top = _MARGIN
        for picture in drawn:
            whole.paste(picture, (_MARGIN, top))
            top += picture.height + _WIDE
        return np.asarray(whole)


def enlarge(
    image: UInt8[np.ndarray, "h w c"], least: int = _CELL
) -> UInt8[np.ndarray, "hh ww 3"]:
    """Makes each pixel a square, so that the sides have `least` pixels or more."""
    times = enlargement(min(image.shape[:2]), least)
    image = image.repeat(times, axis=0).repeat(times, axis=1)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def enlargement(size: int, least: int = _CELL) -> int:
    """The smallest whole factor that makes `size` at least `least`."""
    return -(-least // size)


def shorten(text: str, longest: int) -> str:
    """The text, cut with an ellipsis if it is longer."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


@functools.cache
def font(size: int = _TEXT) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib: the same on every machine."""
    # Pillow's own font has no arrows and few scripts
    folder = Path(matplotlib.get_data_path())
    return ImageFont.truetype(str(folder / "fonts/ttf/DejaVuSans.ttf"), size)


def _draw_panel(panel: Panel, left: int) -> Image.Image:
    """Draws a panel whose images begin `left` pixels from its left edge."""
    rows, columns = panel.images.shape[:2]
    h, w = enlarge(panel.images[0, 0]).shape[:2]
    title = _wrap(panel.title, max(left + columns * (w + _GAP), 6 * _CELL))
    top = len(title) * _height() + (_height() if panel.columns else 0) + _GAP
    lines = max((c.count("\n") + 1 for row in panel.captions for c in row), default=0)
    below = _height(_SMALL) * lines
    x = [
        left + j * (w + _GAP) + _WIDE * sum(j >= start for start in panel.breaks)
        for j in range(columns)
    ]
    y = [top + i * (h + _GAP + below) for i in range(rows)]
    width = max([x[-1] + w, *(_width(line) for line in title)])
    picture = Image.new("RGB", (width, y[-1] + h + below), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((0, 0), "\n".join(title), "black", font(), spacing=_height() - _TEXT)
    for start, end, heading in _spans(panel.columns):
        middle = (x[start] + x[end - 1] + w) // 2
        place = (max(middle, _width(heading) // 2), top - _height() - _GAP)
        pen.text(place, heading, "black", font(), anchor="ma")
    for i, label in enumerate(panel.rows):
        place, text = (left - _SPACE, y[i] + h / 2), "\n".join(_short(label))
        pen.text(place, text, "black", font(), anchor="rm", align="right")
    for i, j in np.ndindex(rows, columns):
        picture.paste(Image.fromarray(enlarge(panel.images[i, j])), (x[j], y[i]))
        if panel.captions:
            place, caption = (x[j] + w / 2, y[i] + h), str(panel.captions[i][j])
            pen.text(place, caption, "black", font(_SMALL), anchor="ma", align="center")
    return picture


def _spans(columns: Sequence[str]) -> list[tuple[int, int, str]]:
    """(first column, column after the last, heading) of each heading."""
    starts = [i for i, heading in enumerate(columns) if heading]
    bounds = itertools.pairwise([*starts, len(columns)])
    return [(i, j, columns[i]) for i, j in bounds]


def _short(label: str) -> list[str]:
    return [shorten(line, _LONGEST) for line in label.splitlines()]


def _wrap(text: str, width: int) -> list[str]:
    characters = width // 8  # about the mean width of a letter
    return [x for line in text.splitlines() for x in textwrap.wrap(line, characters)]


def _width(text: str) -> int:
    return int(np.ceil(font().getlength(text)))


def _height(size: int = _TEXT) -> int:
    return size + 5
