"""Sets of images to compare: of a data set, a folder, or an .npz from anywhere."""

import dataclasses
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sagan.data import open_source
from sagan.metrics.protocol import Progress, silent
from sagan.schema import Config, ConfigError, Data
from sagan.source import Examples, Source

ORDER_SEED = 0  # of the order, and so of the choice, of reals
_IMAGES = ("image", "images", "arr_0", "x", "samples")
_LABELS = ("label", "labels", "arr_1", "y")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
_CHUNK = 512


def of_source(source: Source, limit: int, progress: Progress = silent) -> Examples:
    """At most `limit` (0: all) examples of a source, in an order that is always one."""
    order = np.random.default_rng(ORDER_SEED).permutation(len(source))
    chosen = order[: limit or None]
    starts = range(0, len(chosen), _CHUNK)
    pieces = [
        source.examples(chosen[start : start + _CHUNK])
        for start in progress(starts, "reading images")
    ]
    image, label = zip(*pieces, strict=True)
    return Examples(np.concatenate(image), np.concatenate(label))


def held_out(config: Config, split: str, source: Source) -> Source | None:
    """Another split of the data, to test on: named test or validation, if there is."""
    names = ("test", "val", "validation")
    found = [name for name in names if name in source.splits and name != split]
    return open_source(config, found[0]) if found else None


class ImageSet(NamedTuple):
    """Images to compare.

    Attributes:
      examples: in memory.
      classes: of the labels; 0: there are none.
      class_names: by label, where they have names.
    """

    examples: Examples
    classes: int = 0
    class_names: tuple[str, ...] = ()


def of_path(path: Path, progress: Progress = silent) -> ImageSet:
    """The images of a folder or an .npz as they are.

    A folder holds images of one size, in sub-folders that are the classes, or directly,
    where names such as 000000_class3.png, by `sagan sample`, give the labels. An .npz
    holds uint8 images [n h w c] or [n h w] named image, images, arr_0, x or samples,
    and perhaps labels [n] named label, labels, arr_1 or y.

    Raises:
      ConfigError: there are none, or they cannot be compared with each other.
    """
    if path.suffix == ".npz":
        return _of_npz(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: is neither a folder of images nor an .npz file")
    files = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in _SUFFIXES]
    files = [p for p in files if p.name != "grid.png"]  # of `sagan sample`
    if not files:
        raise ConfigError(f"{path}: holds no images")
    images = []
    for file in progress(files, f"reading {path}"):
        images.append(_read(file))
        if images[-1].shape != images[0].shape:
            raise ConfigError(
                f"{file}: is {_size(images[-1])}, but {files[0]} is"
                f" {_size(images[0])}; all images must have one size and type"
            )
    label, class_names = _labels_of(path, files)
    return _labelled(Examples(np.stack(images), label), class_names)


def check_same_classes(fake: ImageSet, real: ImageSet) -> None:
    """Raises ConfigError where both sets name their classes, and differently."""
    if fake.class_names and real.class_names and fake.class_names != real.class_names:
        raise ConfigError(
            f"the classes of the fakes are {', '.join(fake.class_names)}, those of the"
            f" reals {', '.join(real.class_names)}"
        )


def _labels_of(path: Path, files: list[Path]) -> tuple[np.ndarray, tuple[str, ...]]:
    inside = [file.relative_to(path).parts for file in files]
    if all(len(parts) > 1 for parts in inside):
        names = sorted({parts[0] for parts in inside})
        return np.array([names.index(p[0]) for p in inside], np.int32), tuple(names)
    found = [re.search(r"_class(\d+)\.", file.name) for file in files]
    numbers = [int(match[1]) if match else 0 for match in found]
    return np.array(numbers, np.int32), ()


def _labelled(examples: Examples, class_names: tuple[str, ...] = ()) -> ImageSet:
    classes = int(examples.label.max()) + 1
    return ImageSet(examples, classes if classes > 1 else 0, class_names)


def of_data_set(spec: str, path: str, like: Examples) -> Source:
    """The split of a data set as `NAME[:SPLIT]`, at the size of other images.

    Raises:
      ConfigError: there is no such data set or split.
    """
    name, _, split = spec.partition(":")
    _, height, width, channels = like.image.shape
    if height != width:
        raise ConfigError(f"images of {height}x{width}: a data set's are square")
    data = Data(
        name=name,
        path=path,
        split=split or "train",
        size=height,
        channels=1 if channels == 1 else 3,
        allow_small=True,
    )
    return open_source(dataclasses.replace(Config(), data=data))


def check_alike(fake: Examples, real: Examples) -> None:
    """Raises ConfigError where the images of two sets differ in size or channels."""
    if fake.image.shape[1:] != real.image.shape[1:]:
        raise ConfigError(
            f"the fakes are {_size(fake.image[0])}, the reals {_size(real.image[0])}:"
            " they must have one size and type"
        )


def _of_npz(path: Path) -> ImageSet:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = list(file)
            image = next((file[name] for name in _IMAGES if name in names), None)
            label = next((file[name] for name in _LABELS if name in names), None)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: is not there") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: cannot be read as .npz ({error})") from error
    if image is None:
        raise ConfigError(
            f"{path}: holds {', '.join(names) or 'nothing'}; must hold uint8 images"
            f" [n h w c] under one of {', '.join(_IMAGES)}"
        )
    if image.ndim == 3:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] not in (1, 3):
        raise ConfigError(
            f"{path}: images of type {image.dtype} and shape {image.shape}; must be"
            " uint8 [n h w c] with 1 or 3 channels"
        )
    if not len(image):
        raise ConfigError(f"{path}: holds no images")
    if label is None:
        label = np.zeros(len(image), np.int32)
    if label.shape != (len(image),) or not np.issubdtype(label.dtype, np.integer):
        raise ConfigError(
            f"{path}: labels of type {label.dtype} and shape {label.shape}; must be"
            f" integers [{len(image)}]"
        )
    return _labelled(Examples(image, label.astype(np.int32)))


def _read(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as opened:
            grey = opened.mode in ("1", "L")
            pixels = np.asarray(opened.convert("L" if grey else "RGB"), np.uint8)
    except Exception as error:  # Pillow raises nearly anything
        raise ConfigError(f"{file}: cannot be read ({error})") from error
    return pixels[..., None] if grey else pixels


def _size(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{height}x{width} {'grey' if channels == 1 else 'colour'}"
