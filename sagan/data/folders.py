"""Folders of images: every folder is read once, whatever links lead to it."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, final

from PIL import Image

from sagan.config.schema import ConfigError
from sagan.data.images import image_formats
from sagan.runtime.progress import first_few, printable

MOST_ENTRIES = 20_000_000  # files and folders; ImageNet-21k has 14 million images


class ImageFolder(NamedTuple):
    """Sorted paths of the images below a folder.

    Attributes:
      loose: Paths of the images directly in it.
      classes: Paths of the images in each of its folders, to any depth.
      notes: Lines about everything that was left out.
    """

    loose: list[str]
    classes: dict[str, list[str]]
    notes: tuple[str, ...]


def read_folder(root: Path, place: str) -> ImageFolder:
    """Finds the images below `root`, which messages call `place`.

    Links to files and folders are followed, but each folder is read only once. Hidden
    files and folders are left out, and so is whatever is no regular file.

    Raises:
      ConfigError: A folder cannot be read or is in two classes, or there are too many.
    """
    walk = _Walk(place)
    loose = list(walk.images(str(root), "", deep=False))
    folders = subfolders(root)
    classes = {p.name: list(walk.images(str(p), p.name)) for p in folders}
    if walk.shared:
        raise ConfigError(
            f"{place}: {len(walk.shared)} folders are in two classes, by links:"
            f" {first_few(walk.shared)}; their images would have two labels"
        )
    names = [os.path.basename(path) for path in walk.ignored]
    notes = []
    if folders and loose:
        notes.append(f"{place}: {len(loose)} images beside the folders are ignored")
    for found, what in (
        (names, "files ignored, no images"),
        (walk.not_files, "entries ignored (broken links, or not regular files)"),
        (walk.repeated, "links to folders read before, not followed again"),
    ):
        if found:
            notes.append(f"{place}: {len(found)} {what}: {first_few(found)}")
    return ImageFolder(loose, classes, tuple(notes))


def subfolders(root: Path) -> list[Path]:
    """The folders in a folder, but hidden ones, sorted by name."""
    if not root.is_dir():
        return []
    found = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return sorted(found, key=lambda path: path.name)


@final
class _Walk:
    """The folders read so far, and all that is not an image in them."""

    def __init__(self, place: str):
        self._place, self._count = place, 0
        self._owner: dict[tuple[int, int], tuple[str, str]] = {}
        self.ignored: list[str] = []
        self.not_files: list[str] = []
        self.repeated: list[str] = []
        self.shared: list[str] = []

    def images(self, top: str, label: str, *, deep: bool = True) -> Iterator[str]:
        """The images of a folder, before those in its folders."""
        stack = [top]
        while stack:
            folder, below = stack.pop(), []
            try:
                if not self._is_new(folder, label):
                    continue
                with os.scandir(folder) as entries:
                    found = sorted(map(self._counted, entries), key=lambda e: e.name)
            except OSError as error:
                why = f"cannot be read: {error.strerror}"
                raise ConfigError(f"{printable(folder)}: {why}") from error
            for entry in found:
                is_folder, is_file = _kind(entry)
                hidden = entry.name.startswith(".")
                if is_folder:
                    below += [entry.path] * (deep and not hidden)
                elif (
                    hidden or os.path.splitext(entry.name)[1].lower() not in suffixes()
                ):
                    self.ignored.append(entry.path)
                elif is_file:
                    yield entry.path
                else:
                    self.not_files.append(entry.path)
            stack += reversed(below)

    def _counted(self, entry: os.DirEntry[str]) -> os.DirEntry[str]:
        self._count += 1
        if self._count > MOST_ENTRIES:
            raise ConfigError(
                f"{self._place}: holds more than {MOST_ENTRIES:,} files and folders, up"
                f" to {printable(entry.path)}: must be a folder of images"
            )
        return entry

    def _is_new(self, folder: str, label: str) -> bool:
        status = os.stat(folder)
        mine = (label, folder)
        owner, first = self._owner.setdefault((status.st_dev, status.st_ino), mine)
        if first == folder:
            return True
        if owner in ("", label):  # "": a link back up to the root
            self.repeated.append(folder)
        else:
            self.shared.append(f"{folder} is {first}")
        return False


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether it is, or is a link to, a folder; and a regular file."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself, or to a place that cannot be read
        return False, False


@functools.cache
def suffixes() -> frozenset[str]:
    """File name extensions of the image formats."""
    return frozenset(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in image_formats()
    )
