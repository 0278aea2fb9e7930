"""Decoding of image files, which are not trusted.

Images are given as paths or as encoded bytes. Functions raise whatever Pillow raises.
"""

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from sagan.config.schema import DataConfig
from sagan.runtime.files import open_regular

# Ends of complete files. Some cameras append data, but not much.
_END = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 1024
# Pillow's limit, above which it only warns; a quarter of a gigabyte in colour.
MOST_PIXELS = 89_478_485
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class Header(NamedTuple):
    """Size and kind of an image, read without decoding it."""

    width: int
    height: int
    colour: bool


def read_header(image: bytes | str, *, whole: bool) -> Header:
    """Reads the header; with `whole`, also checks that the file is complete.

    A JPEG or PNG file is complete if its end marker is there. Without one, and in any
    other format, the image is decoded to find out.
    """
    with _opened(image) as (stream, opened):
        _check_mode(opened)
        header = Header(*opened.size, colour=not _is_grey(opened))
        end = _END.get(opened.format or "")
        if whole and (end is None or end not in _tail(stream)):
            opened.load()
    return header


def decode(image: bytes | str, data: DataConfig) -> UInt8[np.ndarray, "h w c"]:
    """The upright image, cropped to its central square and resized to data.size.

    Shrinking is bilinear with antialiasing, enlarging bicubic. Transparent pixels
    become white, and 16-bit values keep their upper 8 bits.

    Source: central crop and bilinear resize are the official preprocessing
    (openai/improved-gan, imagenet/convert_imagenet_to_records.py, `imresize`).
    """
    size = data.size
    with _opened(image) as (_, opened):
        # JPEG only: decodes at 1/2, 1/4 or 1/8, but never below twice the size.
        opened.draft(None, (2 * size, 2 * size))
        upright = _in_8_bits(_upright(opened), "L" if data.channels == 1 else "RGB")
        width, height = upright.size
        if (width, height) == (size, size):  # else Pillow copies it, which takes time
            return np.asarray(upright, np.uint8).reshape(size, size, data.channels)
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        method = Image.Resampling.BILINEAR if side >= size else Image.Resampling.BICUBIC
        box = (left, top, left + side, top + side)
        square = upright.resize((size, size), method, box=box)
        return np.asarray(square, np.uint8).reshape(size, size, data.channels)


def decode_whole(image: bytes | str) -> UInt8[np.ndarray, "h w c"]:
    """The upright image at its own size, with 1 channel if it is grey, else 3."""
    with _opened(image) as (_, opened):
        mode = "L" if _is_grey(opened) else "RGB"
        pixels = np.asarray(_in_8_bits(_upright(opened), mode), np.uint8)
        return pixels.reshape(*pixels.shape[:2], -1)


@functools.cache
def image_formats() -> tuple[str, ...]:
    """Formats that Pillow reads and whose MIME type is that of an image."""
    Image.init()
    known = Image.OPEN
    return tuple(n for n in known if Image.MIME.get(n, "").startswith("image/"))


@contextlib.contextmanager
def _opened(image: bytes | str) -> Iterator[tuple[io.BufferedIOBase, Image.Image]]:
    """The stream and the first frame, not yet decoded.

    Only image formats are tried, whatever the file's name, because Pillow gives
    PostScript to another program.
    """
    is_path = isinstance(image, str)
    stream = open_regular(Path(image)) if is_path else io.BytesIO(image)
    with stream, Image.open(stream, formats=image_formats()) as opened:
        width, height = opened.size
        if width * height > MOST_PIXELS:
            raise ValueError(
                f"{width}x{height} pixels; must be {MOST_PIXELS:,} at most"
            )
        yield stream, opened


def _tail(stream: io.BufferedIOBase) -> bytes:
    position = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - _TAIL))
    tail = stream.read()
    stream.seek(position)
    return tail


def _is_grey(opened: Image.Image) -> bool:
    return opened.mode in ("1", "L", "LA", "La") or opened.mode.startswith("I")


def _check_mode(opened: Image.Image) -> None:
    if opened.mode in ("F", "LAB"):  # no fixed range; no conversion in Pillow
        raise ValueError(f"mode {opened.mode} cannot be converted to 8-bit channels")


def _upright(opened: Image.Image) -> Image.Image:
    """The same image, turned as its EXIF data say."""
    try:
        ImageOps.exif_transpose(opened, in_place=True)  # else it copies every image
    except (SyntaxError, ValueError, KeyError, TypeError, UserWarning):
        pass  # unreadable EXIF data are ignored
    return opened


def _in_8_bits(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """The image in 8 bits and without transparency."""
    _check_mode(image)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("mode I cannot be converted: more than 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image if image.mode == mode else image.convert(mode)
