import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sagan.metrics.interface import MetricError
from sagan.metrics.resize import RESIZES, resize_clean, resize_tf1


def images(height, width, *, n=2, c=3, seed=0):
    numbers = np.random.default_rng(seed)
    return numbers.integers(0, 256, (n, height, width, c), np.uint8)


def tf1_by_hand(image, new=299):
    """Pixel by pixel, as the definition has it."""
    height, width, c = image.shape
    x = image.astype(np.float32)
    result = np.empty((new, new, c), np.float32)

    def neighbours(i, size):
        place = np.float32(i) * np.float32(size / new)
        low = int(place)
        return low, min(low + 1, size - 1), np.float32(place - np.float32(low))

    for i in range(new):
        top, bottom, down = neighbours(i, height)
        for j in range(new):
            left, right, along = neighbours(j, width)
            upper = x[top, left] + (x[top, right] - x[top, left]) * along
            lower = x[bottom, left] + (x[bottom, right] - x[bottom, left]) * along
            result[i, j] = upper + (lower - upper) * down
    return result


# 150 tells a grid in float64; 299 is the identity
@pytest.mark.parametrize("shape", [(8, 8), (32, 40), (150, 150), (299, 299), (320, 7)])
def test_tf1_resize_is_its_definition_to_the_last_bit(shape):
    x = images(*shape, n=1)
    np.testing.assert_array_equal(resize_tf1(x, 299)[0], tf1_by_hand(x[0]))
    np.testing.assert_array_equal(resize_tf1(x, 224)[0], tf1_by_hand(x[0], 224))


def test_tf1_resize_by_hand():
    x = np.zeros((1, 1, 2, 1), np.uint8)
    x[0, 0, 1] = 200
    row = np.asarray(resize_tf1(x, 299))[0, 0, :, 0]
    assert row[0] == 0  # no half-pixel offset: the first pixel is the first pixel
    assert row[1] == pytest.approx(200 * 2 / 299)  # neither rounded nor cut
    assert (row[150:] == 200).all()  # the upper neighbour is clamped
    assert row[149] < 200


@pytest.mark.parametrize("size", [299, 224])
@pytest.mark.parametrize("shape", [(8, 8), (32, 40), (299, 299), (320, 500), (640, 1)])
def test_clean_resize_is_pillows_bicubic_of_floats(shape, size):
    x = images(*shape)
    floats = x.astype(np.float32)
    expected = np.stack(
        [
            [
                np.asarray(
                    Image.fromarray(image[..., c]).resize(
                        (size, size), resample=Image.Resampling.BICUBIC
                    )
                )
                for c in range(3)
            ]
            for image in floats
        ]
    )
    expected = np.moveaxis(expected, 1, -1).clip(0, 255)
    np.testing.assert_allclose(resize_clean(x, size), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("resize", RESIZES.values(), ids=RESIZES)
def test_grey_images_are_three_equal_channels(resize):
    grey = images(16, 16, c=1)
    result = np.asarray(resize(grey, 64))
    assert result.shape == (2, 64, 64, 3)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, resize(np.tile(grey, (1, 1, 1, 3)), 64))


@pytest.mark.parametrize("resize", RESIZES.values(), ids=RESIZES)
@pytest.mark.parametrize(
    "wrong",
    [
        images(8, 8).astype(np.float32),
        images(8, 8).astype(np.int32),
        jnp.asarray(images(8, 8), jnp.bfloat16),
        images(8, 8, c=4),
        images(8, 8)[0],
    ],
    ids=["float32", "int32", "bfloat16", "rgba", "no batch"],
)
def test_only_uint8_images_are_taken(resize, wrong):
    with pytest.raises(MetricError, match="images of"):
        resize(wrong, 64)
