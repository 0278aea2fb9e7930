"""Images of a checkpoint for given latents and classes, and names of the classes."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int, UInt8

from sagan.checkpoints.restore import OpenedRun, labels_to_draw
from sagan.checkpoints.workdir import class_names
from sagan.config.schema import Config
from sagan.runtime.devices import padded_batches
from sagan.sampling import sampler as sampler_lib
from sagan.sampling.grid import class_titles
from sagan.sampling.layout import shorten
from sagan.sampling.sampler import Variables

BATCH = 64  # as in `sagan sample`: the same compiled program, so the same images
COLUMNS = 10  # latents side by side
_CLASSES = 10  # shown by default, at most
Classes = Sequence[int] | None  # labels asked for; None: a default
Latents = Float32[np.ndarray, "n z"]
Labels = Int[np.ndarray, " n"]
UNCONDITIONAL = "the run is unconditional: there are no classes"
sampler = functools.lru_cache(maxsize=4)(sampler_lib.make_sampler)


def latents(
    opened: OpenedRun, seed: int, count: int, truncation: float = 0.0
) -> Latents:
    """The first latents of a seed, as `sagan sample` uses them."""
    numbers = np.arange(-(-count // BATCH) * BATCH)  # few shapes: each is compiled
    z = sampler_lib.latents(opened.config, seed, numbers, truncation)
    return np.asarray(z)[:count]


def draw_images(
    config: Config, variables: Variables, z: Latents, y: Labels
) -> UInt8[np.ndarray, "n h w c"]:
    """The image of each latent and class, as `sagan sample` would write it."""
    images, y = padded_batches(sampler(config), variables, BATCH), y.astype(np.int32)
    starts = range(0, len(y), BATCH)
    return np.concatenate([images(z[i : i + BATCH], y[i : i + BATCH]) for i in starts])


def draw_rows(
    opened: OpenedRun, z: Latents, y: Labels, columns: int = COLUMNS
) -> UInt8[np.ndarray, "rows columns h w c"]:
    """The images of a checkpoint as those of a layout.Panel."""
    images = draw_images(opened.config, opened.variables, z, y)
    return images.reshape(-1, columns, *images.shape[1:])


def classes_to_show(opened: OpenedRun, classes: Classes) -> Labels:
    """The given labels, else up to ten spread evenly; empty if unconditional.

    Raises:
      ConfigError: There is no such class.
    """
    labels_to_draw(opened.config, 0, classes)
    known = opened.config.data.classes or 0
    some = np.linspace(0, known - 1, min(known, _CLASSES)).round()
    return np.asarray(some if classes is None else classes, np.int32)


def labels_in_turn(opened: OpenedRun, classes: Classes, count: int = COLUMNS) -> Labels:
    """`count` labels, the classes_to_show in turn; zeros if unconditional."""
    shown = classes_to_show(opened, classes)
    return np.resize(shown if len(shown) else np.zeros(1, np.int32), count)


def label_names(opened: OpenedRun, labels: Labels, longest: int = 64) -> list[str]:
    """Class names, shortened, or numbers if unknown; empty if unconditional."""
    titles = class_titles(opened.config.data.classes, class_names(opened.workdir))
    return [shorten(titles[label], longest) for label in labels] if titles else []
