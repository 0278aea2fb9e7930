"""Prepares data sets: all images in a few files, cropped and resized once.

Folders and digits need no TensorFlow. Data sets of the TFDS catalogue are first written
by their own builders, most of which do.
"""

import contextlib
import dataclasses
import difflib
import importlib.util
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sagan.config.architecture import base_and_doublings
from sagan.config.schema import ConfigError, DataConfig
from sagan.data.datasets import DATASETS, open_split, prepared
from sagan.data.idx import FAMILIES
from sagan.data.records import FILES, RAW
from sagan.data.records_writer import (
    FORMATS,
    check_folder,
    settings_digest,
    write_set,
)
from sagan.data.source import Source
from sagan.data.validation import check_images
from sagan.runtime.progress import Report, first_few, printable

_RETRIES = 5  # of a download: 6 s; TFDS's 10 take minutes where there is no network


class Prepared(NamedTuple):
    """A written data set: its data.name, its data.path, and the sizes of its splits."""

    name: str
    path: pathlib.Path
    splits: Mapping[str, int]


def prepare(
    name: str,
    data_dir: str | pathlib.Path,
    source_path: str | pathlib.Path | None = None,
    *,
    size: int | None = None,
    format: str | None = None,
    settings: DataConfig | None = None,
    report: Report | None = None,
) -> Prepared:
    """Writes all splits of a data set to a folder in `data_dir`.

    With a size, the images are cropped and resized as training would; the folder is
    called NAME_SIZE. Without one they are stored as they are. A set that is already
    there stays as it is, and one that was begun is continued.

    Args:
      name: digits, the path of a folder of images, `folder` with a `source_path`, or a
        name in the TFDS catalogue (also name/config:version).
      data_dir: The folder for data sets; of the catalogue, the TFDS data directory.
      source_path: For `folder`, the folder of images; its name becomes that of the set.
      size: Height and width in pixels.
      format: raw (the default; the fastest to read), png or jpeg.
      settings: `channels`, `allow_small` and `skip_broken`, as in training.
      report: Receives what the check found out about the images.

    Raises:
      ConfigError: One line for each problem.
    """
    root = pathlib.Path(data_dir).expanduser()
    name, path = _named(name, source_path)
    if size is None and format is not None:
        raise ConfigError(f"--format {format}: needs --size")
    if format is not None and format not in FORMATS:
        raise ConfigError(f"--format {format}: must be {', '.join(FORMATS)}")
    if size is not None:
        base_and_doublings(size)
    # IDX files are read as they are
    in_catalogue = name not in DATASETS or name in FAMILIES
    if in_catalogue and size is None:
        return _catalogue(name, root)
    data = settings or DataConfig()
    stored = _stored_name(name, path) + (f"_{size}" if size else "")
    kept = FILES if size is None else format or RAW
    asked = settings_digest(name, stored, kept, data)
    check_folder(root / stored, asked)
    where = str(root if in_catalogue else path or "")
    # classes=0: no label is refused; size 1: every file is decoded
    data = dataclasses.replace(data, name=name, path=where, classes=0, size=size or 1)
    open_one = _open_catalogue(name, root) if in_catalogue else open_split
    splits = open_one(data, "train").splits
    sources = {split: check_images(open_one(data, split)) for split in splits}
    if size and report:
        for note in itertools.chain(*(source.notes for source in sources.values())):
            report(note)
    _check_same_classes(sources)
    write_set(root / stored, sources, kept, asked)
    counts = {split: len(source) for split, source in sources.items()}
    return Prepared(name, root / stored, counts)


def _named(
    name: str, source_path: str | pathlib.Path | None
) -> tuple[str, str | pathlib.Path | None]:
    """The data.name and the folder of images, if any, of what a user named."""
    if source_path and name != "folder":
        raise ConfigError(f"--path {source_path}: {name} takes none, only folder does")
    if name == "folder" and not source_path:
        raise ConfigError("folder: --path must name the folder of images")
    if source_path or name in DATASETS:
        return name, source_path
    is_path = name.startswith(("/", ".", "~"))
    if is_path or pathlib.Path(name).exists() and not _has_builder(name):
        return "folder", name
    return name, None


def _has_builder(name: str) -> bool:
    import tensorflow_datasets as tfds

    return name in tfds.list_builders(with_community_datasets=False)


def _stored_name(name: str, path: str | pathlib.Path | None) -> str:
    """The name of the folder of a set; that of images is not in DATASETS."""
    if path:
        name = pathlib.Path(path).expanduser().resolve().name
    stored = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    taken = path and (stored in DATASETS or not stored[:1].isalpha())
    return f"images_{stored}".rstrip("_") if taken else stored


def _check_same_classes(sources: Mapping[str, Source]) -> None:
    first, *others = sources
    if odd := [n for n in sources[first].class_names if printable(n) != n]:
        raise ConfigError(
            f"{sources[first].place}: class names must be lines of text to be stored:"
            f" {first_few(odd)}; rename these folders"
        )
    for split in others:
        names, expected = sources[split].class_names, sources[first].class_names
        if names != expected:
            different = sorted(set(names) ^ set(expected))
            raise ConfigError(
                f"{sources[split].place}: must have the classes of {first}; these are"
                f" in one only: {first_few(different)}"
            )


def _open_catalogue(name: str, root: pathlib.Path) -> Callable[..., Source]:
    """Opens a TFDS data set, which is first written unless it is there."""
    try:
        prepared(DataConfig(name, path=str(root)), "train")
    except ConfigError:
        _catalogue(name, root)
    return prepared


def _catalogue(name: str, root: pathlib.Path) -> Prepared:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        with _one_line(name):
            builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
    except DatasetNotFoundError as error:
        known = [*DATASETS, *tfds.list_builders(with_community_datasets=False)]
        near = " or ".join(difflib.get_close_matches(name, known, n=3))
        hint = f"; did you mean {near}?" if near else ""
        raise ConfigError(
            f"{name}: no such folder, and not in the TFDS catalogue{hint}"
        ) from error
    if importlib.util.find_spec("tensorflow") is None:
        raise ConfigError(
            f"{name}: preparing a data set of the TFDS catalogue needs TensorFlow"
            " (training does not): pip install tensorflow"
        )
    with _one_line(name):
        builder.download_and_prepare()
    return _prepared(builder, root)


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turns errors that a user can fix into ConfigErrors."""
    import requests
    from tensorflow_datasets.core.download import download_manager, downloader, util
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    downloader.MAX_RETRIES = _RETRIES
    try:
        yield
    except (requests.exceptions.RequestException, util.DownloadError) as error:
        why = _joined(error)
        raise ConfigError(f"{name}: cannot be downloaded: {why}") from error
    except download_manager.NonMatchingChecksumError as error:
        why = _joined(error).partition(" To debug")[0]
        raise ConfigError(f"{name}: {why}; delete that file and try again") from error
    except DatasetNotFoundError:
        raise
    except ValueError as error:  # an invalid name, config or version
        raise ConfigError(f"{name}: {str(error).splitlines()[0]}") from error
    except AssertionError as error:  # names files that must be downloaded by hand
        raise ConfigError(f"{name}: {_joined(error)}") from error


def _joined(error: Exception) -> str:
    """The message as one line."""
    return " ".join(str(error).split())


def _prepared(builder: Any, root: pathlib.Path) -> Prepared:
    kind = builder.info.file_format.value
    if kind != "array_record":
        raise ConfigError(
            f"{builder.name}: {builder.data_path} holds it as {kind}, must be"
            " array_record: name another --data-dir"
        )
    counts = {name: info.num_examples for name, info in builder.info.splits.items()}
    return Prepared(builder.name, root, counts)
