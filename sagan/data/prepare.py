"""Writes data sets as TFDS array_record, for `datasets.prepared` to read.

Digits and folders need no TensorFlow. Those in the TFDS catalogue are written by their
own builders, most of which do.
"""

import contextlib
import difflib
import importlib.util
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sagan.config.schema import ConfigError, DataConfig
from sagan.data.datasets import DATASETS, open_split
from sagan.data.idx import FAMILIES
from sagan.data.source import Source
from sagan.data.validation import check_images
from sagan.runtime.progress import first_few, printable


class Prepared(NamedTuple):
    """A written data set: its data.name, its data.path, and the sizes of its splits."""

    name: str
    path: pathlib.Path
    splits: Mapping[str, int]


def prepare(
    name: str,
    data_dir: str | pathlib.Path,
    source_path: str | pathlib.Path | None = None,
) -> Prepared:
    """Writes all splits of a data set under `data_dir`.

    A data set that is already there stays as it is. For a folder this is an error, as
    its images may have changed.

    Args:
      name: digits, folder, or a name in the TFDS catalogue (also name/config:version).
      data_dir: The TFDS data directory.
      source_path: For `folder`, the folder of images; its name becomes that of the
        data set. Files are stored unchanged.

    Raises:
      ConfigError: One line for each problem.
    """
    root = pathlib.Path(data_dir).expanduser()
    if source_path and name != "folder":
        raise ConfigError(f"--path {source_path}: {name} takes none, only folder does")
    if name == "folder" and not source_path:
        raise ConfigError("folder: --path must name the folder of images")
    if name not in DATASETS or name in FAMILIES:  # IDX files are read as they are
        return _catalogue(name, root)
    # decodes every file, to 1x1: all written images can be read
    data = DataConfig(name, path=str(source_path or ""), size=1, allow_small=True)
    splits = open_split(data, "train").splits
    sources = {split: check_images(open_split(data, split)) for split in splits}
    _check_same_classes(sources)
    builder = _builder(_stored_name(name, source_path), sources, root)
    if source_path and pathlib.Path(builder.data_path).exists():
        raise ConfigError(f"{builder.data_path}: there already; delete or rename it")
    builder.download_and_prepare()
    return _prepared(builder, root)


def _stored_name(name: str, source_path: str | pathlib.Path | None) -> str:
    """A name that TFDS accepts; that of a folder must not be in DATASETS."""
    if not source_path:
        return name
    folder = pathlib.Path(source_path).expanduser().resolve().name
    stored = re.sub(r"[^a-z0-9]+", "_", folder.lower()).strip("_")
    taken = stored in DATASETS or not stored[:1].isalpha()
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


def _builder(stored_name: str, sources: Mapping[str, Source], root: pathlib.Path):
    import tensorflow_datasets as tfds

    class_names = next(iter(sources.values())).class_names
    # TFDS checks that an Image given as bytes is bytes, and stores them as they are.
    features: dict[str, Any] = {"image": tfds.features.Image()}
    if class_names:
        features["label"] = tfds.features.ClassLabel(names=list(class_names))

    class Images(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Encoded images and their labels."""

        name = stored_name
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,  # the order of the source, for the same run
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in sources}

        def _generate_examples(self, split):
            records = sources[split].records
            for key in range(len(records)):
                image, label = records[key]
                if isinstance(image, str):
                    image = pathlib.Path(image).read_bytes()
                example: dict[str, Any] = {"image": image}
                yield key, example | ({"label": label} if class_names else {})

    return Images(data_dir=str(root), file_format="array_record")


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
        raise ConfigError(f"{name}: not in the TFDS catalogue{hint}") from error
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
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        yield
    except requests.exceptions.ConnectionError as error:
        raise ConfigError(f"{name}: cannot be downloaded: {error}") from error
    except DatasetNotFoundError:
        raise
    except ValueError as error:  # an invalid name, config or version
        raise ConfigError(f"{name}: {str(error).splitlines()[0]}") from error
    except AssertionError as error:  # names files that must be downloaded by hand
        raise ConfigError(f"{name}: {error}") from error


def _prepared(builder: Any, root: pathlib.Path) -> Prepared:
    kind = builder.info.file_format.value
    if kind != "array_record":
        raise ConfigError(
            f"{builder.name}: {builder.data_path} holds it as {kind}, must be"
            " array_record: name another --data-dir"
        )
    counts = {name: info.num_examples for name, info in builder.info.splits.items()}
    return Prepared(builder.name, root, counts)
