"""Images of a checkpoint from given latents and classes, and what they are called."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float32, Int, PyTree, UInt8

from sagan.checkpoints.restore import Opened, labels_to_draw
from sagan.checkpoints.workdir import class_names
from sagan.config.schema import Config
from sagan.runtime.devices import batch_shardings
from sagan.sampling import sampler as sampler_lib
from sagan.visualization.picture import cut

BATCH = 64  # that of `sagan sample`: the same compiled program, so the same images
COLUMNS = 10  # latents beside each other
_CLASSES = 10  # at most, where none are asked for
UNCONDITIONAL = "the run is unconditional: there are no classes"
Variables = dict[str, PyTree[Array]]
sampler = functools.lru_cache(maxsize=4)(sampler_lib.make_sampler)


def latents(
    opened: Opened, seed: int, count: int, truncation: float = 0.0
) -> Float32[np.ndarray, "n z"]:
    """The first latents of a seed: those of `sagan sample`."""
    numbers = np.arange(-(-count // BATCH) * BATCH)  # few shapes: each is compiled
    z = sampler_lib.latents(opened.config, seed, numbers, truncation)
    return np.asarray(z)[:count]


def images(
    opened: Opened, z: Float32[np.ndarray, "n z"], y: Int[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n h w c"]:
    """The image of each latent and class, as `sagan sample` would write it."""
    return images_of(opened.config, opened.variables, z, y)


def images_of(
    config: Config,
    variables: Variables,
    z: Float32[np.ndarray, "n z"],
    y: Int[np.ndarray, " n"],
) -> UInt8[np.ndarray, "n h w c"]:
    """The same, of any variables of the generator."""
    by_image, everywhere = batch_shardings(BATCH)
    variables = jax.device_put(variables, everywhere)
    pieces = []
    for start in range(0, len(y), BATCH):
        some = slice(start, start + BATCH)
        filled_z = np.resize(z[some], (BATCH, z.shape[1]))  # one shape is compiled
        filled_y = np.resize(y[some], BATCH).astype(np.int32)
        inputs = jax.device_put((filled_z, filled_y), by_image)
        pieces.append(np.asarray(sampler(config)(variables, *inputs))[: len(y[some])])
    return np.concatenate(pieces)


def in_rows(
    images: UInt8[np.ndarray, "n h w c"], columns: int
) -> UInt8[np.ndarray, "rows columns h w c"]:
    """Images one after the other as those of a Panel."""
    return images.reshape(-1, columns, *images.shape[1:])


def classes_to_show(
    opened: Opened, classes: Sequence[int] | None
) -> Int[np.ndarray, " k"]:
    """The labels asked for, or some spread evenly over all; none if unconditional.

    Raises:
      ConfigError: there is no such class.
    """
    labels_to_draw(opened.config, 0, classes)
    known = opened.config.data.classes or 0
    some = np.linspace(0, known - 1, min(known, _CLASSES)).round()
    return np.asarray(some if classes is None else classes, np.int32)


def in_turn(
    opened: Opened, classes: Sequence[int] | None, count: int = COLUMNS
) -> Int[np.ndarray, " n"]:
    """That many labels of classes_to_show, one after the other; 0 if unconditional."""
    shown = classes_to_show(opened, classes)
    return np.resize(shown if len(shown) else np.zeros(1, np.int32), count)


def names_of(
    opened: Opened, labels: Int[np.ndarray, " n"], longest: int = 64
) -> list[str]:
    """The names of classes, cut where they are long; numbers if there are no names.

    Nothing where the run is unconditional.
    """
    count, names = opened.config.data.classes, class_names(opened.workdir)
    if not count:
        return []
    names = names if len(names) == count else [str(k) for k in range(count)]
    names = [f"class {name}" if name.isdecimal() else name for name in names]
    return [cut(names[label], longest) for label in labels]
