"""Images of two far-apart objects that share a hue, and a measure of that rule.

The images have 24x24 pixels. One object is at the top left (A), one at the bottom right
(B); their hue is uniform on the colour circle. The shape, size, place, lightness and
saturation of each object, the grey of the background, and the lightness, size and place
of a grey disc between the objects vary independently.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

NAME = "far_hues"
SIZE, PLACE, IMAGES = 24, 8, 4000
PLACES = {"A": (0, 0), "B": (16, 16)}  # top left corner of each PLACE x PLACE region
TOLERANCE = 20.0  # degrees
CHANCE = 2 * TOLERANCE / 360  # probability that independent hues agree
# a region with less summed chroma has no hue; the smallest of 1,000 real ones is 4.5
FAINT = 1.5
FINE = 4  # each pixel is the mean of 4x4 points
AXES = np.exp(2j * np.pi * np.arange(3) / 3)  # red, green and blue on the circle


def render(seed: int, number: int, *, shared: bool = True) -> np.ndarray:
    """Image `number` of a seed, [24 24 3] uint8; unless `shared`, B has its own hue."""
    rng = np.random.default_rng((seed, number))
    hues = dict(zip(PLACES, rng.uniform(0, 2 * np.pi, 2), strict=True))
    if shared:
        hues["B"] = hues["A"]
    fine = (np.arange(SIZE * FINE) + 0.5) / FINE
    y, x = np.meshgrid(fine, fine, indexing="ij")
    canvas = np.full((*y.shape, 3), rng.uniform(0.15, 0.35))
    dy, dx = (v - 12 - rng.uniform(-2, 2) for v in (y, x))
    canvas[dy**2 + dx**2 < rng.uniform(1.5, 3) ** 2] = rng.uniform(0.4, 0.9)
    for name, (top, left) in PLACES.items():
        dy, dx = (
            v - corner - PLACE / 2 - rng.uniform(-0.6, 0.6)
            for v, corner in ((y, top), (x, left))
        )
        radius = rng.uniform(2.6, 3.4)
        inside = _shape(int(rng.integers(3)), dy / radius, dx / radius)
        light, strength = rng.uniform(0.45, 0.6), rng.uniform(0.25, 0.35)
        shade = light - 0.08 * np.clip(dy / radius, -1, 1)  # lit from above
        hue = strength * (AXES * np.exp(-1j * hues[name])).real
        canvas = np.where(inside[..., None], shade[..., None] + hue, canvas)
    pixels = canvas.reshape(SIZE, FINE, SIZE, FINE, 3).mean(axis=(1, 3))
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _shape(kind: int, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """A disc, a square or a triangle that points up, within the unit disc's square."""
    square = np.maximum(abs(dy), abs(dx)) < 0.85
    triangle = (dy < 0.8) & (abs(dx) < (dy + 1) / 1.8)
    return (dy**2 + dx**2 < 1, square, triangle)[kind]


def write(data_dir: Path, images: int = IMAGES) -> None:
    """Writes the train split as array_record under `data_dir`, unless it exists."""
    import tensorflow_datasets as tfds

    class Hues(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Two objects in opposite corners that share a hue."""

        name = NAME
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(SIZE, SIZE, 3))}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(images):
                buffer = io.BytesIO()  # encoded here: TFDS would need TensorFlow
                Image.fromarray(render(0, number)).save(buffer, "PNG")
                yield number, {"image": buffer.getvalue()}

    Hues(data_dir=str(data_dir), file_format="array_record").download_and_prepare()


def chroma(image: np.ndarray) -> dict[str, np.ndarray]:
    """The summed chroma of each region as a complex number, whose angle is the hue.

    Grey has none, so the background does not count.
    """
    return {
        name: (image[:, top : top + PLACE, left : left + PLACE] / 255.0 @ AXES).sum(
            (1, 2)
        )
        for name, (top, left) in PLACES.items()
    }


def hue_distance(image: np.ndarray) -> np.ndarray:
    """Degrees between the hues of A and B; 180 if one of them has no hue."""
    one, other = chroma(image).values()
    degrees = abs(np.degrees(np.angle(one * other.conj())))
    return np.where(np.minimum(abs(one), abs(other)) < FAINT, 180.0, degrees)


def obeys(image: np.ndarray) -> dict[str, float]:
    """Share within the tolerance, median in degrees, and share without a hue."""
    degrees = hue_distance(image)
    return {
        "share": float((degrees <= TOLERANCE).mean()),
        "median": float(np.median(degrees)),
        "faint": float((degrees == 180).mean()),
    }
