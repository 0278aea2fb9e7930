"""MNIST and its relatives: images and labels in IDX files, plain or gzipped.

Source: the format is described at the end of LeCun's page of MNIST: a magic number, the
length of each axis (both big-endian), then the bytes. Fashion-MNIST (arXiv:1708.07747)
and Kuzushiji-MNIST (arXiv:1812.01718) come in the same four files.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from sagan.config.schema import ConfigError, DataConfig
from sagan.data.source import Record, Source, check_split, pgm, split_and_start

SPLITS = {"train": "train", "test": "t10k"}  # the first part of the files' names


FAMILIES = {  # class names by label
    "mnist": "0,1,2,3,4,5,6,7,8,9",
    "fashion_mnist": (
        "t-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot"
    ),
    "kmnist": "o,ki,su,tsu,na,ha,ma,ya,re,wo",
}
# where Debian's package dataset-fashion-mnist puts its files
DEFAULT_FOLDERS = {"fashion_mnist": "/usr/share/datasets/fashion-mnist"}


def folder_of(data: DataConfig) -> Path | None:
    """The folder that holds the training images as IDX; None: no such file is there."""
    root = data.path or DEFAULT_FOLDERS.get(data.name)
    if not root:
        return None
    root = Path(root).expanduser()
    return root if _files(root, "train", "images") else None


def missing(data: DataConfig, tfds_path: str) -> str:
    """The message that a data set is there neither as IDX files nor as TFDS's."""
    files = "train-images-idx3-ubyte.gz and the three files that belong to it"
    message = (
        f"data.path = {data.path!r}: must hold {files}, or {data.name} as written by"
        f" `sagan prepare {data.name} --data-dir {tfds_path}`"
    )
    if default := DEFAULT_FOLDERS.get(data.name):
        message += f"; Debian's dataset-fashion-mnist puts them in {default}"
    return message


def open_idx(data: DataConfig, root: Path, split: str) -> Source:
    """A split of the IDX files in `root`, or its start, such as train[:500].

    Raises:
      ConfigError: A file is missing, truncated or of another kind, or the images and
        the labels differ in number.
    """
    name, most = split_and_start(split)
    check_split(
        data, name, (*SPLITS, f"the start of one, such as {next(iter(SPLITS))}[:500]")
    )
    images = _read(data, root, name, "images")
    labels = _read(data, root, name, "labels")
    place = f"{data.name} in {root}, split {split}"
    if len(images) != len(labels):
        raise ConfigError(f"{place}: {len(images)} images but {len(labels)} labels")
    return Source(
        data,
        place=place,
        records=[
            Record(pgm(image), int(label))
            for image, label in zip(images[:most], labels[:most], strict=True)
        ],
        splits=tuple(SPLITS),
        class_names=tuple(FAMILIES[data.name].split(",")),
    )


def _files(root: Path, split: str, kind: str) -> list[Path]:
    """The files that hold a split's images or labels, under the names in use."""
    axes = {"images": 3, "labels": 1}[kind]
    stems = [f"{SPLITS[split]}-{kind}{dot}idx{axes}-ubyte" for dot in "-."]
    paths = [root / f"{stem}{suffix}" for stem in stems for suffix in ("", ".gz")]
    return [path for path in paths if path.is_file()]


def _read(data: DataConfig, root: Path, split: str, kind: str) -> np.ndarray:
    axes = {"images": 3, "labels": 1}[kind]
    found = _files(root, split, kind)
    if not found:
        name = f"{SPLITS[split]}-{kind}-idx{axes}-ubyte"
        raise ConfigError(f"{root}: {data.name} must have {name} or {name}.gz there")
    path = found[0]
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(f"{path}: is not a complete gzip file ({error})") from error
    magic = b"\0\0\x08" + bytes([axes])  # 8: unsigned bytes
    if content[:4] != magic:
        raise ConfigError(
            f"{path}: starts with {content[:4].hex()}: must be {magic.hex()}, an IDX"
            f" file of {kind}"
        )
    header = 4 + 4 * axes
    shape = tuple(np.frombuffer(content[4:header].ljust(4 * axes, b"\0"), ">u4"))
    shape = tuple(map(int, shape))
    if len(content) != header + math.prod(shape):
        raise ConfigError(
            f"{path}: holds {len(content)} bytes: must hold"
            f" {header + math.prod(shape)} for its shape {shape}; is it truncated?"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
