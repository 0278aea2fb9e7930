"""Sets of images to compare: a split of a data set, a folder, or an .npz file."""

import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from sagan.config.schema import Config, ConfigError, DataConfig
from sagan.data.folders import read_folder
from sagan.data.images import decode_whole
from sagan.data.pipeline import open_source
from sagan.data.source import Examples, Source
from sagan.evaluation.npz import read_npz
from sagan.runtime.progress import bar, first_few, printable

_ORDER_SEED = 0  # of the order, and so of the choice, of reals
TRAINING = 50_000  # images at most for an embedded feature network
_IMAGES = ("image", "images", "arr_0", "x", "samples")
_LABELS = ("label", "labels", "arr_1", "y")
_TESTS = ("test", "val", "validation")
_CHUNK = 512


def order(count: int) -> Int[np.ndarray, " n"]:
    """A fixed random order of that many images."""
    return np.random.default_rng(_ORDER_SEED).permutation(count)


def of_source(source: Source, limit: int) -> Examples:
    """At most `limit` (0: all) examples of a source, in a fixed random order."""
    image, label = zip(*in_pieces(source, limit), strict=True)
    return Examples(np.concatenate(image), np.concatenate(label))


def in_pieces(source: Source, limit: int) -> Iterator[Examples]:
    """The examples of `of_source`, a few hundred at a time."""
    chosen = order(len(source))[: limit or None]
    starts, together = range(0, len(chosen), _CHUNK), os.cpu_count() or 1
    with ThreadPoolExecutor(together) as pool:
        for first in bar(range(0, len(starts), together), "reading images"):
            yield from pool.map(
                lambda i: source.examples(chosen[i:][:_CHUNK]),
                starts[first:][:together],
            )


def for_features(
    config: Config, source: Source, examples: Examples, trained_on: Source
) -> tuple[Examples, Examples | None]:
    """Images to train an embedded feature network on, and held-out ones to test it.

    The latter come from another split with the same classes: the comparison's, or one
    named test or validation, if there is one.

    Args:
      config: Config of the data of both splits.
      source: The comparison's source.
      examples: The comparison's images.
      trained_on: The training split.
    """
    if source is not trained_on:
        return of_source(trained_on, TRAINING), examples
    training = examples
    if len(examples.label) != min(TRAINING, len(source)):
        training = of_source(source, TRAINING)
    names = [name for name in _TESTS if name in source.splits]
    names = [name for name in names if name != source.data.split]
    other = open_source(config, names[0]) if names else None
    if other is None or other.class_names != source.class_names:
        return training, None
    return training, of_source(other, TRAINING)


class ImageSet(NamedTuple):
    """Images to compare.

    Attributes:
      examples: Images and labels; label k is the class class_names[k].
      labelled: Whether the labels mean anything.
      class_names: Names of the classes; empty for arrays.
    """

    examples: Examples
    labelled: bool = False
    class_names: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes; 0: there are no labels, or only one."""
        count = len(self.class_names) or int(self.examples.label.max()) + 1
        return count if self.labelled and count > 1 else 0


def of_path(path: Path) -> ImageSet:
    """Reads the images of a folder or an .npz file unchanged.

    A folder holds images of one size, in sub-folders that are the classes, or directly,
    where names such as 000000_class3.png, by `sagan sample`, give the labels. An .npz
    holds uint8 images [n h w c] or [n h w] named image, images, arr_0, x or samples,
    and perhaps labels [n] named label, labels, arr_1 or y.

    Raises:
      ConfigError: There are none, or they differ in size or type.
    """
    if path.suffix == ".npz":
        return _of_npz(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: is neither a folder of images nor an .npz file")
    found = read_folder(path, printable(str(path)))
    paths = itertools.chain(found.loose, *found.classes.values())
    files = [file for file in sorted(map(Path, paths)) if file.name != "grid.png"]
    if not files:  # grid.png is of `sagan sample`
        raise ConfigError(f"{path}: holds no images")
    images = []
    for file in bar(files, f"reading {path}"):
        images.append(_read(file))
        if images[-1].shape != images[0].shape:
            raise ConfigError(
                f"{printable(str(file))}: is {_size(images[-1])}, but"
                f" {printable(str(files[0]))} is {_size(images[0])}; all images must"
                " have one size and type"
            )
    label, class_names = _labels_of(path, files)
    labelled = len(label) > 0
    label = label if labelled else np.zeros(len(files), np.int32)
    return ImageSet(Examples(np.stack(images), label), labelled, class_names)


def with_labels_of(fake: ImageSet, real: ImageSet) -> ImageSet:
    """Translates the fakes' labels to the classes of the reals.

    Class names are matched. Numbers are positions among the sorted class names of the
    reals, as in training and in the files of `sagan sample`.

    Raises:
      ConfigError: A label of the fakes is not a class of the reals.
    """
    if not fake.labelled or not real.classes:
        return fake
    known = list(real.class_names) or [str(k) for k in range(real.classes)]
    names = list(fake.class_names)
    unknown = sorted(set(names) - set(known))
    numbers = fake.examples.label
    if unknown or not names and numbers.max() >= len(known):
        shown = first_few(unknown) or str(numbers.max())
        raise ConfigError(
            f"class {shown} of the fakes: the classes of the reals are"
            f" {printable(', '.join(known[:20]))}"
        )
    if names:
        numbers = np.array([known.index(name) for name in names], np.int32)[numbers]
    return fake._replace(examples=fake.examples._replace(label=numbers))


def _labels_of(path: Path, files: list[Path]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names; a name such as 000000_class3.png gives a number."""
    inside = [file.relative_to(path).parts for file in files]
    if all(len(parts) > 1 for parts in inside):
        names = sorted({parts[0] for parts in inside})
        return np.array([names.index(p[0]) for p in inside], np.int32), tuple(names)
    found = [re.search(r"_class(\d{1,6})\.", file.name) for file in files]
    if not all(found):
        return np.empty(0, np.int32), ()
    return np.array([int(match[1]) for match in found if match], np.int32), ()


def of_data_set(spec: str, path: str, like: Examples) -> Source:
    """Opens the split `NAME[:SPLIT]` of a data set, at the size of other images.

    Raises:
      ConfigError: There is no such data set or split.
    """
    name, _, split = spec.partition(":")
    _, height, width, channels = like.image.shape
    if height != width:
        raise ConfigError(f"images of {height}x{width}: a data set's are square")
    data = DataConfig(
        name=name,
        path=path,
        split=split or "train",
        size=height,
        channels=1 if channels == 1 else 3,
        allow_small=True,
    )
    return open_source(Config(data=data))


def check_alike(fake: Examples, real: Examples) -> None:
    """Raises ConfigError if the images of two sets differ in size or channels."""
    if fake.image.shape[1:] != real.image.shape[1:]:
        raise ConfigError(
            f"the fakes are {_size(fake.image[0])}, the reals {_size(real.image[0])}:"
            " they must have one size and type"
        )


def _of_npz(path: Path) -> ImageSet:
    def first(kinds: Iterable[str], names: Collection[str]) -> list[str]:
        return [name for name in kinds if name in names][:1]

    arrays, names = read_npz(
        path, lambda names: first(_IMAGES, names) + first(_LABELS, names)
    )
    image, label = (
        next(map(arrays.get, first(kinds, names)), None) for kinds in (_IMAGES, _LABELS)
    )
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
        return ImageSet(Examples(image, np.zeros(len(image), np.int32)))
    kind = np.issubdtype(label.dtype, np.integer) and label.shape == (len(image),)
    if not kind or label.min() < 0 or label.max() >= 10**6:
        raise ConfigError(
            f"{path}: labels of type {label.dtype} and shape {label.shape}; must be"
            f" integers [{len(image)}] from 0 to the number of classes"
        )
    return ImageSet(Examples(image, label.astype(np.int32)), labelled=True)


def _read(file: Path) -> np.ndarray:
    try:
        return decode_whole(str(file))
    except Exception as error:  # Pillow raises nearly anything
        raise ConfigError(
            f"{printable(str(file))}: cannot be read ({error})"
        ) from error


def _size(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{height}x{width} {'grey' if channels == 1 else 'colour'}"
