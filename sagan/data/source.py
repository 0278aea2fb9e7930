"""Encoded images of one split, and the one way from a file to a square of uint8."""

import dataclasses
import functools
import io
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, final

import numpy as np
from jaxtyping import Int, Int32, UInt8
from PIL import Image, ImageOps

from sagan.config.schema import ConfigError, DataConfig

# What closes a whole file; anything after it (some cameras add data) is short.
_END = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 1024
# From here on Pillow warns; in colour a quarter of a gigabyte.
MOST_PIXELS = 89_478_485
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class Record(NamedTuple):
    """One example as it is stored.

    Attributes:
      image: the encoded image, or the path of its file.
      label: 0 if there are none.
    """

    image: bytes | str
    label: int

    def name(self, index: int) -> str:
        """What to call the image in a message."""
        return self.image if isinstance(self.image, str) else f"record {index}"


class Examples(NamedTuple):
    """Decoded examples."""

    image: UInt8[np.ndarray, "n h w c"]
    label: Int32[np.ndarray, " n"]


@final
class Subset(Sequence[Record]):
    """The records at some indices of others."""

    def __init__(self, records: Sequence[Record], kept: Int[np.ndarray, " m"]):
        self._records, self._kept = records, kept

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index):
        return self._records[int(self._kept[index])]


@final
@dataclasses.dataclass(frozen=True)
class Source:
    """The images and labels of one split, by index.

    Attributes:
      data: what was asked for; gives the size and the channels.
      place: where it lies, in the words of the config, for messages.
      records: the encoded examples.
      splits: the splits that this data set has.
      class_names: by label; empty if the data has no labels.
      sampled: a record costs too much to look at all of them before each run.
      notes: what the user should read before the first step.
      problems: what forbids the first step.
      memory: all examples, decoded; None: decoded when asked for.
    """

    data: DataConfig
    place: str
    records: Sequence[Record]
    splits: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    sampled: bool = False
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    memory: Examples | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def classes(self) -> int:
        """Classes to condition on: one alone is as good as none."""
        return len(self.class_names) if len(self.class_names) > 1 else 0

    def examples(self, indices: Int[np.ndarray, " n"]) -> Examples:
        """Images and labels, each record read once."""
        if self.memory:
            return Examples(self.memory.image[indices], self.memory.label[indices])
        images, labels = [], []
        for index in map(int, indices):
            record = self.records[index]
            try:
                images.append(decode(record.image, self.data))
            except Exception as error:  # Pillow raises nearly anything
                place = f"{self.place}: {record.name(index)}"
                raise ConfigError(f"{place}: cannot be read ({error})") from error
            labels.append(record.label)
        shape = (-1, self.data.size, self.data.size, self.data.channels)
        image = np.array(images, np.uint8).reshape(shape)
        return Examples(image, np.array(labels, np.int32))

    def images(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w c"]:
        """The images at `indices`."""
        return self.examples(indices).image

    def labels(self, indices: Int[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        """The labels at `indices`, without decoding an image."""
        if self.memory:
            return self.memory.label[indices]
        return np.array([self.records[int(i)].label for i in indices], np.int32)


class Header(NamedTuple):
    """What an image file says of itself before its pixels."""

    width: int
    height: int
    colour: bool


def header(image: bytes | str, *, whole: bool) -> Header:
    """Size and kind of an image; raises what Pillow raises.

    Args:
      image: the encoded image.
      whole: also check that nothing is missing: the end of a JPEG or PNG file is
        looked for; what has none where it should be, and any other format, is decoded.
    """
    with _open(image) as stream, opened_image(stream) as opened:
        _mode_is_known(opened)
        grey = is_grey(opened)
        width, height = opened.size
        mark = _END.get(opened.format or "")
        if whole and (mark is None or mark not in _tail(stream)):
            opened.load()
    return Header(width, height, colour=not grey)


def is_grey(opened: Image.Image) -> bool:
    """Whether the mode has one channel of light."""
    return opened.mode in ("1", "L", "LA", "La") or opened.mode.startswith("I")


def decode(image: bytes | str, data: DataConfig) -> UInt8[np.ndarray, "h w c"]:
    """The upright image, cropped to its central square and resized to data.size.

    Shrinking is bilinear with antialiasing, enlarging bicubic; transparent pixels are
    laid on white; 16 bits keep their upper 8. Raises what Pillow raises.

    Source: central crop and bilinear resize are the official preprocessing
    (openai/improved-gan, imagenet/convert_imagenet_to_records.py, `imresize`).
    """
    with _open(image) as stream, opened_image(stream) as opened:
        # JPEG only: decodes at 1/2, 1/4 or 1/8, but never below twice the size.
        opened.draft(None, (2 * data.size, 2 * data.size))
        turned = flat(upright(opened), "L" if data.channels == 1 else "RGB")
        width, height = turned.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = turned.resize(
            (data.size, data.size),
            Image.Resampling.BILINEAR
            if side >= data.size
            else Image.Resampling.BICUBIC,
            box=(left, top, left + side, top + side),
        )
        pixels = np.asarray(square, np.uint8)
        return pixels.reshape(data.size, data.size, data.channels)


def opened_image(stream: Any) -> Image.Image:
    """The first frame of an image, not decoded yet.

    Files are not trusted: only formats that are images are looked for, whatever a file
    is called (Pillow gives PostScript to another program), and Pillow's limits of what
    a file may unpack to are errors. Raises what Pillow raises.
    """
    opened = Image.open(stream, formats=image_formats())
    width, height = opened.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width}x{height} pixels; must be {MOST_PIXELS:,} at most")
    return opened


@functools.cache
def image_formats() -> tuple[str, ...]:
    """Those that Pillow reads and whose MIME type is that of an image."""
    Image.init()
    known = Image.OPEN
    return tuple(n for n in known if Image.MIME.get(n, "").startswith("image/"))


def _open(image: bytes | str) -> io.BytesIO | io.BufferedReader:
    return open(image, "rb") if isinstance(image, str) else io.BytesIO(image)


def _tail(stream: io.BytesIO | io.BufferedReader) -> bytes:
    position = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - _TAIL))
    tail = stream.read()
    stream.seek(position)
    return tail


def upright(opened: Image.Image) -> Image.Image:
    """The image itself, turned as its EXIF data say."""
    try:
        ImageOps.exif_transpose(opened, in_place=True)  # else it copies every image
    except (SyntaxError, ValueError, KeyError, TypeError, UserWarning):
        pass  # unreadable EXIF data: the pixels decide
    return opened


def _mode_is_known(opened: Image.Image) -> None:
    if opened.mode in ("F", "LAB"):  # no fixed range; no conversion in Pillow
        raise ValueError(f"mode {opened.mode} cannot be converted to 8-bit channels")


def flat(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """The image in 8 bits, without transparency; ValueError if it has no range."""
    _mode_is_known(image)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("mode I cannot be converted: more than 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image if image.mode == mode else image.convert(mode)
