"""Rows of small images with words beside them: one picture that people can read."""

import functools
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from sagan.runtime.files import write_whole

_CELL = 64  # pixels: smaller images are enlarged, to this or a little more
_GAP, _SPACE, _WIDE, _MARGIN = 2, 6, 16, 10
_TEXT, _SMALL = 13, 10
_LONGEST = 28  # characters of a line at the left


class Panel(NamedTuple):
    """A block of images in rows and columns.

    Attributes:
      title: above it.
      images: enlarged by a whole factor where they are small.
      rows: what each row is, at its left.
      columns: what each column is, above it; an empty one belongs to the one before.
      beneath: a few characters below each image, row by row.
      breaks: columns with more room before them.
    """

    title: str
    images: UInt8[np.ndarray, "rows columns h w c"]
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    beneath: Sequence[list[str]] = ()
    breaks: Sequence[int] = ()


class Sheet(NamedTuple):
    """A picture of a run and what there is to say of it.

    Attributes:
      panels: one below the other.
      caption: one sentence.
      notes: what a reader must know besides.
      numbers: for a JSON file beside the picture; None: there are none.
    """

    panels: Sequence[Panel]
    caption: str
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, Any] | None = None

    @property
    def picture(self) -> UInt8[np.ndarray, "height width c"]:
        """All panels with their words, in colour."""
        left = max(_room(panel) for panel in self.panels)
        drawn = [_draw(panel, left) for panel in self.panels]
        width = max(picture.width for picture in drawn) + 2 * _MARGIN
        height = sum(picture.height for picture in drawn)
        height += _WIDE * (len(drawn) - 1) + 2 * _MARGIN
        whole = Image.new("RGB", (width, height), "white")
        top = _MARGIN
        for picture in drawn:
            whole.paste(picture, (_MARGIN, top))
            top += picture.height + _WIDE
        return np.asarray(whole)


def enlargement(size: int, least: int = _CELL) -> int:
    """The whole factor by which an image is enlarged, to `least` pixels or a few more.

    Larger images stay as they are.
    """
    return max(1, -(-least // size))


def enlarged(
    image: UInt8[np.ndarray, "h w c"], times: int
) -> UInt8[np.ndarray, "hh ww 3"]:
    """In colour; every pixel becomes a square."""
    image = image.repeat(times, axis=0).repeat(times, axis=1)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def save(path: Path, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes a PNG, whole or not at all, into a folder that is there."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG")
    write_whole(path, encoded.getvalue())


def _room(panel: Panel) -> int:
    """Pixels for the words at the left."""
    widths = [_width(line) for label in panel.rows for line in _short(label)]
    return max(widths) + _SPACE if widths else 0


def _draw(panel: Panel, left: int) -> Image.Image:
    images = panel.images
    rows, columns, h, w, _ = images.shape
    times = enlargement(min(h, w))
    h, w = h * times, w * times
    wider = [sum(j >= start for start in panel.breaks) for j in range(columns)]
    x = [left + j * (w + _GAP) + _WIDE * wider[j] for j in range(columns)]
    right = x[-1] + w
    title = _wrapped(panel.title, max(right, 6 * _CELL))
    top = len(title) * _height() + (_height() if panel.columns else 0) + _GAP
    beneath = _height(_SMALL) if panel.beneath else 0
    y = [top + i * (h + _GAP + beneath) for i in range(rows)]
    width = max([right, *(_width(line) for line in title)])
    picture = Image.new("RGB", (width, y[-1] + h + beneath), "white")
    pen = ImageDraw.Draw(picture)
    for i, line in enumerate(title):
        pen.text((0, i * _height()), line, "black", font())
    for start, end, heading in _spans(panel.columns):
        middle = (x[start] + x[end - 1] + w) // 2
        _write(pen, middle, top - _height() - _GAP, heading)
    for i, label in enumerate(panel.rows):
        place, text = (left - _SPACE, y[i] + h / 2), "\n".join(_short(label))
        pen.text(place, text, "black", font(), anchor="rm", align="right")
    for i, j in np.ndindex(rows, columns):
        picture.paste(Image.fromarray(enlarged(images[i, j], times)), (x[j], y[i]))
        if panel.beneath:
            _write(pen, x[j] + w // 2, y[i] + h, panel.beneath[i][j], _SMALL)
    return picture


def _write(
    pen: ImageDraw.ImageDraw, middle: int, top: int, text: str, size: int = _TEXT
) -> None:
    start = middle - _width(text, size) // 2
    pen.text((max(0, start), top), text, "black", font(size))


def _spans(columns: Sequence[str]) -> list[tuple[int, int, str]]:
    """(first column, column after the last, heading) of each heading."""
    starts = [i for i, heading in enumerate(columns) if heading]
    bounds = itertools.pairwise([*starts, len(columns)])
    return [(i, j, columns[i]) for i, j in bounds]


def cut(text: str, longest: int) -> str:
    """The text, or its beginning."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _short(label: str) -> list[str]:
    return [cut(line, _LONGEST) for line in label.splitlines()]


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@functools.cache
def font(size: int = _TEXT) -> ImageFont.FreeTypeFont:
    """Of all words in pictures: the same on every machine."""
    # Pillow's own has no arrows and few scripts
    folder = Path(matplotlib.get_data_path())
    return ImageFont.truetype(str(folder / "fonts/ttf/DejaVuSans.ttf"), size)


def _width(text: str, size: int = _TEXT) -> int:
    return int(np.ceil(font(size).getlength(text)))


def _height(size: int = _TEXT) -> int:
    return size + 5
