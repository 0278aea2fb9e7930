"""The images and labels of one split: encoded records, decoded examples."""

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from sagan.config.schema import ConfigError, DataConfig
from sagan.data.images import decode
from sagan.runtime.progress import printable


class Record(NamedTuple):
    """An example as it is stored.

    Attributes:
      image: The encoded image, or the path of its file.
      label: The label; 0 in data without labels.
    """

    image: bytes | str
    label: int

    def name(self, index: int) -> str:
        """Name of the image in messages."""
        if isinstance(self.image, str):
            return printable(self.image)
        return f"record {index}"


def pgm(pixels: UInt8[np.ndarray, "h w"]) -> bytes:
    """A grey image as a PGM file, which costs next to nothing to encode and decode."""
    height, width = pixels.shape
    return pnm_header(width, height, 1) + pixels.tobytes()


def pnm_header(width: int, height: int, channels: int) -> bytes:
    """The header of a PGM (1 channel) or PPM file (3 channels); pixels follow it."""
    return b"P%d %d %d 255\n" % ({1: 5, 3: 6}[channels], width, height)


def split_and_start(split: str) -> tuple[str, int | None]:
    """The name of a split, and N if it is given as NAME[:N]."""
    part = re.fullmatch(r"(\w+)\[:(\d+)\]", split)
    return (part[1], int(part[2])) if part else (split, None)


def check_split(data: DataConfig, split: str, splits: Iterable[str]) -> None:
    """Raises a ConfigError unless a split is among those of a data set."""
    if split not in splits:
        where = f"data.path = {data.path!r}" if data.path else data.name
        allowed = " or ".join(splits)
        raise ConfigError(
            f"data.split = {split!r}: must be {allowed}; {where} has no other"
        )


class Examples(NamedTuple):
    """Decoded images and their labels."""

    image: UInt8[np.ndarray, "n h w c"]
    label: Int32[np.ndarray, " n"]


@final
class Subset(Sequence[Record]):
    """Some of the records of another sequence, by their indices."""

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
      data: The section of the config, for size and channels.
      place: Location of the data in the config's words, for messages.
      records: The encoded examples.
      splits: Names of all splits of the data set.
      class_names: Names by label; empty if the data has no labels.
      sampled: Whether reading all records before each run would take too long.
      notes: Lines for the user to read before the first step.
      problems: Reasons not to train on this data.
      memory: All examples, decoded; None if they are decoded when needed.
      waiting: Which images of `memory` are decoded and put there when first needed.
      known_labels: All labels; None if they are in the records only.
      pixels: Reads images by index; None if records must be decoded.
      files: Paths of the files that hold the records, unless each is a file itself.
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
    waiting: Bool[np.ndarray, " n"] | None = None
    known_labels: Int32[np.ndarray, " n"] | None = None
    pixels: Callable[[Int[np.ndarray, " n"]], UInt8[np.ndarray, "n h w c"]] | None = (
        None
    )
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def classes(self) -> int:
        """Number of classes to condition on; 0 for a single class."""
        return len(self.class_names) if len(self.class_names) > 1 else 0

    def examples(self, indices: Int[np.ndarray, " n"]) -> Examples:
        """Images and labels; reads each record once."""
        if self.pixels and not self.memory:
            return Examples(self.pixels(indices), self.labels(indices))
        shape = (len(indices), self.data.size, self.data.size, self.data.channels)
        if not self.memory:
            image, label = np.empty(shape, np.uint8), np.empty(len(indices), np.int32)
            for i, index in enumerate(map(int, indices)):
                record = self.records[index]
                image[i], label[i] = self._decode(record, index), record.label
            return Examples(image, label)
        if self.waiting is not None:
            for index in indices[self.waiting[indices]].tolist():
                self.memory.image[index] = self._decode(self.records[index], index)
                self.waiting[index] = False
        return Examples(self.memory.image[indices], self.memory.label[indices])

    def _decode(self, record: Record, index: int) -> UInt8[np.ndarray, "h w c"]:
        try:
            return decode(record.image, self.data)
        except Exception as error:  # Pillow raises nearly anything
            place = f"{self.place}: {record.name(index)}"
            raise ConfigError(f"{place}: cannot be read ({error})") from error

    @property
    def has_labels_at_hand(self) -> bool:
        """Whether all labels are known without reading too many records."""
        known = self.known_labels is not None or not self.sampled
        return self.memory is not None or known

    def labels(self, indices: Int[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        """The labels at `indices`, without decoding an image."""
        if self.memory:
            return self.memory.label[indices]
        if self.known_labels is not None:
            return self.known_labels[indices]
        return np.array([self.records[int(i)].label for i in indices], np.int32)


def contents_digest(source: Source) -> str:
    """SHA-256 of the names, in their common folder, and sizes of the image files.

    Images that are in memory encoded, such as the digits, count themselves.
    """
    images = source.files or [record.image for record in source.records]
    paths = [image for image in images if isinstance(image, str)]
    root, whole = "", hashlib.sha256()
    if paths:  # all lie between these two
        root = os.path.commonpath([os.path.dirname(f(paths)) for f in (min, max)])
    for image in images:
        if isinstance(image, str):
            name = image.removeprefix(root).lstrip("./")
            size = -1
            with contextlib.suppress(OSError):
                size = os.stat(image).st_size
            image = os.fsencode(name) + b"\0%d" % size
        whole.update(b"%d\0" % len(image) + image)
    return whole.hexdigest()
