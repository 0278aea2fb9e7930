"""Prepared data sets: all images of a set in a few large files.

A prepared set is a folder of plain files: `prepared.json`, which is written last and
lists the others with their sizes, and the images of each split, in the order of the
source, in files called train-00000.records and so on. Such a file has for its n images
the ends of the records (n int64, counted from the first record), the labels (n int32),
both little-endian, and then the records. A record is an encoded image or, in the format
raw, its pixels [h w c].
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int, UInt8

from sagan.config.schema import ConfigError, DataConfig
from sagan.data.source import Record, Source, check_split, pnm_header, split_and_start
from sagan.runtime.files import file_name, naming_file, read_json

MARKER, UNFINISHED = "prepared.json", "unfinished.json"
RAW, FILES = "raw", "files"  # formats: pixels; image files, as they were
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of prepared.json.

    Attributes:
      format: raw, png or jpeg; or files, for images that are stored unchanged.
      size: Height and width of the images; 0 if they differ.
      channels: Number of channels; 0 if they differ.
      allow_small: Whether training may enlarge them without asking.
      class_names: Names by label; empty if there are no labels.
      per_file: Images in each file but the last of a split.
      splits: Number of images by split.
      files: Size in bytes by name of every other file of the set.
      made_from: Digests of the settings and of the images, to recognise a set.
    """

    format: str
    size: int
    channels: int
    allow_small: bool
    class_names: list[str]
    per_file: int
    splits: dict[str, int]
    files: dict[str, int]
    made_from: list[str]
    version: int = _VERSION

    @property
    def pixels(self) -> int:
        """Values of an image."""
        return self.size**2 * self.channels

    def parts(self, split: str) -> list[tuple[str, int]]:
        """Names of the files of a split, and how many images each has."""
        starts = range(0, self.splits[split], self.per_file)
        counts = (min(self.per_file, self.splits[split] - start) for start in starts)
        return [(f"{split}-{i:05d}.records", n) for i, n in enumerate(counts)]


def find_set(data: DataConfig) -> Path | None:
    """The prepared set in data.path, or in its folder called data.name; None: none is.

    Raises:
      ConfigError: There is one that is not finished.
    """
    if not data.path:
        return None
    root = Path(data.path).expanduser()
    for folder in (root, root / data.name):
        if (folder / MARKER).is_file():
            return folder
        if (folder / UNFINISHED).is_file():
            raise ConfigError(
                f"data.path = {data.path!r}: `sagan prepare` did not finish {folder};"
                " the same command continues it"
            )
    return None


def read_manifest(folder: Path) -> Manifest:
    """The checked content of prepared.json.

    Raises:
      ConfigError: It is damaged, or a file that it lists is missing or truncated.
    """
    try:
        made = Manifest(**read_json(folder / MARKER))
        if problem := next(_problems(folder, made), None):
            raise ValueError(problem)
    except (OSError, TypeError, ValueError, AttributeError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{folder}: cannot be read as a prepared set: {why}"
        ) from error
    return made


def _problems(folder: Path, made: Manifest) -> Iterator[str]:
    """Violations of the format, the most basic first."""
    if made.version != _VERSION:
        yield f"its version is {made.version!r}, must be {_VERSION}"
    counts = [made.size, made.channels, *made.splits.values(), *made.files.values()]
    if not all(type(count) is int and count >= 0 for count in counts):
        yield f"{MARKER} has a count that is no natural number"
    if type(made.per_file) is not int or made.per_file < 1:
        yield f"per_file is {made.per_file!r}, must be at least 1"
    if not all(isinstance(name, str) for name in made.class_names):
        yield "class_names must be names"
    for name, size in made.files.items():
        if file_name(name) != name:
            yield f"{MARKER} lists {name!r}, must be the name of a file in the folder"
        if (there := (folder / name).stat().st_size) != size:
            yield f"{name} has {there} bytes, must have {size}"
    if 12 * sum(made.splits.values()) > sum(made.files.values()):
        yield f"{MARKER} counts more images than the files can hold"
    raw = made.format == RAW
    if raw and not (made.size and made.channels in (1, 3)):
        yield f"raw images of {made.size} px and {made.channels} channels cannot be"
    for name, count in itertools.chain.from_iterable(map(made.parts, made.splits)):
        size, least = made.files.get(name, -1), count * (12 + raw * made.pixels)
        if size < least or (raw and size > least):
            yield f"{MARKER} lists {name} with {size} bytes for {count} images"


@final
class Records(Sequence[Record]):
    """The examples of one split, read from memory-mapped files.

    Attributes:
      labels: All labels.
    """

    def __init__(self, folder: Path, made: Manifest, split: str, most: int | None):
        self._made = made
        self._ends, self._data, labels = [], [], [np.empty(0, np.int32)]
        for name, count in made.parts(split):
            with naming_file(folder / name):
                whole = np.asarray(np.memmap(folder / name, np.uint8, "r"))
            ends, data = whole[: 8 * count].view("<i8"), whole[12 * count :]
            lengths = np.diff(ends, prepend=0)
            if (lengths < 0).any() or lengths.sum() != len(data):
                raise ConfigError(f"{folder / name}: is damaged: its records overlap")
            labels.append(whole[8 * count : 12 * count].view("<i4"))
            self._ends.append(ends)
            self._data.append(data.reshape(-1, *self._shape) if self._raw else data)
        self.labels = np.concatenate(labels).astype(np.int32)[:most]

    @property
    def _raw(self) -> bool:
        return self._made.format == RAW

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self._made.size, self._made.size, self._made.channels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        part, i = divmod(index, self._made.per_file)
        data, ends = self._data[part], self._ends[part]
        if self._raw:
            content = pnm_header(*self._shape) + data[i].tobytes()
        else:
            content = data[int(ends[i - 1]) if i else 0 : int(ends[i])].tobytes()
        return Record(content, int(self.labels[index]))

    def pixels(self, indices: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w c"]:
        """Images in the format raw, by index."""
        images = np.empty((len(indices), *self._shape), np.uint8)
        for image, index in zip(images, indices.tolist(), strict=True):
            part, i = divmod(index, self._made.per_file)
            image[...] = self._data[part][i]
        return images


def open_set(data: DataConfig, folder: Path, split: str) -> Source:
    """A split, or its start, such as train[:500], of the prepared set in a folder.

    Raises:
      ConfigError: The set is damaged, or has no such split.
    """
    made = read_manifest(folder)
    name, most = split_and_start(split)
    check_split(data, name, tuple(made.splits))
    place = f"data.path = {str(folder)!r}, split {split}"
    records, size, notes = Records(folder, made, name, most), made.size, []
    data = dataclasses.replace(data, allow_small=data.allow_small or made.allow_small)
    if size and size != data.size:
        notes.append(
            f"{place}: stored with {size}x{size} pixels, resized to data.size ="
            f" {data.size} whenever they are read"
        )
    as_stored = made.format == RAW and (data.size, data.channels) == (
        size,
        made.channels,
    )
    return Source(
        data,
        place=place,
        records=records,
        splits=tuple(made.splits),
        class_names=tuple(made.class_names),
        sampled=True,
        notes=tuple(notes),
        known_labels=records.labels,
        pixels=records.pixels if as_stored else None,
        files=tuple(str(folder / file) for file in sorted(made.files)),
    )
