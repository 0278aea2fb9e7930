"""The data sets: digits, folders of images, IDX files and prepared TFDS data sets.

To add a data set, write a function (config.data, split) -> Source and enter it in
DATASETS, at the end of this file. Training, evaluation and `sagan prepare` then know it
by that name; its images are checked elsewhere.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import numpy as np

from sagan.config.schema import ConfigError, DataConfig
from sagan.data import idx as idx_lib
from sagan.data.folders import read_folder, subfolders
from sagan.data.records import find_set, open_set
from sagan.data.source import Record, Source, check_split, pgm
from sagan.runtime.files import read_json
from sagan.runtime.progress import first_few


def digits(data: DataConfig, split: str) -> Source:
    """The 1797 8x8 digits of scikit-learn.

    Every sixth image of each class is in the test split, whatever the run's seed. All
    digits may be enlarged. With data.path, they come from the output of
    `sagan prepare` there.
    """
    data = dataclasses.replace(data, allow_small=True)
    if data.path:
        return prepared(data, split)
    check_split(data, split, ("train", "test"))
    from sklearn.datasets import load_digits  # takes a second to import

    values, labels = load_digits(return_X_y=True)
    images = np.round(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    in_test = np.zeros(len(labels), bool)
    for label in range(10):
        in_test[np.flatnonzero(labels == label)[::6]] = True
    chosen = np.flatnonzero(in_test == (split == "test"))
    return Source(
        data,
        place=f"digits, split {split}",
        records=[Record(pgm(images[i]), int(labels[i])) for i in chosen],
        splits=("train", "test"),
        class_names=tuple(str(digit) for digit in range(10)),
    )


def idx(data: DataConfig, split: str) -> Source:
    """The IDX files of a name in idx.FAMILIES, or what TFDS prepared of it."""
    root = idx_lib.folder_of(data)
    return idx_lib.open_idx(data, root, split) if root else prepared(data, split)


def folder(data: DataConfig, split: str) -> Source:
    """Images of any size and format in data.path, in a folder for each class or none.

    Labels number the sorted folder names. Folders named train and test or val, or train
    alone, are splits; otherwise all images are in the split train.
    """
    root = pathlib.Path(data.path).expanduser()
    if not data.path or not root.is_dir():
        raise ConfigError(f"data.path = {data.path!r}: must be a folder of images")
    splits = _folder_splits(root)
    check_split(data, split, splits)
    root = splits[split]
    place = f"data.path = {str(root)!r}"
    found = read_folder(root, place)
    groups = enumerate(found.classes.values() or [found.loose])
    records = [Record(path, label) for label, paths in groups for path in paths]
    return Source(
        data,
        place=place,
        records=records,
        splits=tuple(splits),
        class_names=tuple(found.classes),
        notes=found.notes,
        problems=tuple(_folder_problems(place, found.classes, found.loose)),
    )


def _folder_problems(
    place: str, classes: dict[str, list[str]], loose: list[str]
) -> Iterator[str]:
    if not classes and len(loose) == 1:
        yield f"{place}: holds a single image; a data set must have at least 2"
    for count, what in ((0, "no image"), (1, "a single image")):
        few = [name for name, paths in classes.items() if len(paths) == count]
        if few:
            yield (
                f"{place}: {len(few)} of {len(classes)} folders hold {what}:"
                f" {first_few(few)}; a class must have at least 2"
            )


def _folder_splits(root: pathlib.Path) -> dict[str, pathlib.Path]:
    names = [path.name for path in subfolders(root)]
    held_out = [name for name in ("test", "val") if name in names]
    if "train" in names and (held_out or names == ["train"]):
        return {name: root / name for name in ["train", *held_out]}
    return {"train": root}


def prepared(data: DataConfig, split: str) -> Source:
    """The features image and label of a TFDS data set prepared as array_record.

    Nothing is downloaded, and TensorFlow is not needed.
    """
    import tensorflow_datasets as tfds

    builder = _builder(data)
    place = f"data.name = {data.name!r} in {builder.data_path}"
    kind = builder.info.file_format
    if kind != tfds.core.FileFormat.ARRAY_RECORD:
        raise ConfigError(
            f"{place}: prepared as {kind.value}, must be array_record:"
            f" `sagan prepare {data.name} --data-dir DIR`, in another DIR"
        )
    features, splits = dict(builder.info.features.items()), tuple(builder.info.splits)
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or image.np_dtype == np.float32:
        raise ConfigError(
            f"{place}: must have an integer feature image;"
            f" has {first_few(list(features))}"
        )
    with _one_line(builder.data_path):
        try:
            builder.info.splits[split]  # also slices: train[:10%]
        except ValueError:
            check_split(data, split, splits)
        raw = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        if len(raw):
            raw[0]  # opens the first file
    names = label.names if isinstance(label, tfds.features.ClassLabel) else []
    wanted = {"image": image, "label": label} if names else {"image": image}
    ignored = label is not None and not names
    return Source(
        data,
        place=f"{place}, split {split}",
        records=_Serialised(raw, tfds.features.FeaturesDict(wanted), builder.data_path),
        splits=splits,
        class_names=tuple(names),
        sampled=True,
        notes=(f"{place}: label is no ClassLabel, ignored",) if ignored else (),
        files=tuple(sorted(map(str, pathlib.Path(builder.data_path).iterdir()))),
    )


def _builder(data: DataConfig) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.constants import DATA_DIR
    from tensorflow_datasets.core.read_only_builder import _find_builder_dir
    from tensorflow_datasets.core.utils import error_utils

    path = os.path.expanduser(data.path or DATA_DIR)
    try:
        folder = path
        if not os.path.exists(os.path.join(path, "features.json")):
            with error_utils.reraise_with_context(ValueError):  # required
                folder = _find_builder_dir(data.name, data_dir=path)
        if folder is None:
            raise ValueError("not found")
    except ValueError as error:  # not found, or an invalid name
        if data.path and not os.path.isdir(path):
            raise ConfigError(f"data.path = {data.path!r}: no such folder") from error
        if data.name in idx_lib.FAMILIES:
            raise ConfigError(idx_lib.missing(data, path)) from error
        there = [
            p.name for p in subfolders(pathlib.Path(path)) if p.name != "downloads"
        ]
        raise ConfigError(
            f"data.name = {data.name!r}: must be {', '.join(DATASETS)}, or a TFDS data"
            f" set prepared in {path} (there: {first_few(there) or 'none'}) by"
            f" `sagan prepare {data.name} --data-dir {path}`"
        ) from error
    with _one_line(folder):
        _refuse_foreign_code(folder)
        return tfds.builder_from_directory(folder)


@contextlib.contextmanager
def _one_line(folder: Any) -> Iterator[None]:
    """Turns anything that a damaged TFDS data set raises into a ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # TFDS trusts its files
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{folder}: cannot be read as a TFDS data set: {why}"
        ) from error


def _refuse_foreign_code(folder: Any) -> None:
    """Refuses features.json if it names code of others, which TFDS would import."""
    tree = read_json(pathlib.Path(folder) / "features.json")
    own = ("tensorflow_datasets.", "tfds.")
    foreign = [name for name in _classes(tree) if not name.startswith(own)]
    if foreign:
        raise ConfigError(
            f"{folder}: its features are of {first_few(foreign)}: must be TFDS's own;"
            " code that a data set names is not run"
        )


def _classes(tree: Any) -> Iterator[str]:
    """Names of classes, under each of the keys that TFDS reads."""
    keys = ("pythonClassName", "python_class_name", "protoCls", "proto_cls", "type")
    if isinstance(tree, dict):
        yield from (str(tree[key]) for key in keys if key in tree)
    inner = tree.values() if isinstance(tree, dict) else tree
    for part in inner if isinstance(tree, dict | list) else ():
        yield from _classes(part)


@final
class _Serialised(Sequence[Record]):
    """Records of a TFDS data source of serialised examples."""

    def __init__(self, raw: Any, features: Any, folder: Any):
        import tensorflow_datasets as tfds

        self._raw, self._features, self._folder = raw, features, folder
        self._decoders = {"image": tfds.decode.SkipDecoding()}

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)  # array_record's own error would not end a loop
        with _one_line(self._folder):
            example = self._features.deserialize_example_np(
                self._raw[index], decoders=self._decoders
            )
        return Record(example["image"], int(example.get("label", 0)))


DATASETS: dict[str, Callable[[DataConfig, str], Source]] = {
    "digits": digits,
    "folder": folder,
    **dict.fromkeys(idx_lib.FAMILIES, idx),
}


def open_split(data: DataConfig, split: str) -> Source:
    """A split, not yet checked.

    It is that of a set that `sagan prepare` wrote, if there is one in data.path, else
    of a data set in DATASETS, or prepared by TFDS.
    """
    if folder := find_set(data):
        return open_set(data, folder, split)
    return DATASETS.get(data.name, prepared)(data, split)
