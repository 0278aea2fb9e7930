"""Examples made worse, by more or less: a distance to real ones must rise."""

import numpy as np
from scipy.ndimage import gaussian_filter

from sagan.data.source import Examples


def noise(examples, strength):
    rng = np.random.default_rng(0)
    image = examples.image + rng.normal(0, 255 * strength, examples.image.shape)
    return examples._replace(image=np.clip(image, 0, 255).astype(np.uint8))


def blur(examples, strength):
    image = gaussian_filter(examples.image.astype(float), (0, strength, strength, 0))
    return examples._replace(image=image.round().astype(np.uint8))


def without_classes(examples, count):
    kept = examples.label >= count
    return Examples(*(part[kept] for part in examples))


def repeated(examples, share):
    """All of them copies of a share of them."""
    count = int(len(examples.label) * (1 - share))
    chosen = np.resize(np.arange(count), len(examples.label))
    return Examples(*(part[chosen] for part in examples))
