import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sagan.augment import (
    AUGMENTATIONS,
    augment,
    check_policy,
    color,
    cutout,
    translation,
)
from sagan.config import ConfigError

KEYS = jax.random.split(jax.random.key(0), 200)


@pytest.fixture(scope="module")
def x():
    """One image that no shift, mirror image or mean leaves as it is."""
    return np.random.default_rng(0).uniform(0.1, 1, (9, 8, 3)).astype(np.float32)


def many(function, x):
    return np.asarray(jax.vmap(function, (0, None))(KEYS, jnp.asarray(x)))


@pytest.mark.parametrize("channels", [1, 3])
def test_color_is_brightness_then_saturation_then_contrast(x, channels):
    x = x[..., :channels].astype(np.float64)
    for key in KEYS[:5]:
        b, s, c = np.asarray(jax.random.uniform(key, (3,)), np.float64)
        y = x + (b - 0.5)
        grey = y.mean(axis=2, keepdims=True)
        y = (y - grey) * (s * 2) + grey
        y = (y - y.mean()) * (c + 0.5) + y.mean()
        np.testing.assert_allclose(color(key, jnp.float32(x)), y, atol=1e-6)


def test_translation_moves_up_to_an_eighth_each_way_and_brings_in_zeros(x):
    height, width, _ = x.shape
    padded = np.zeros((3 * height, 3 * width, 3), np.float32)
    padded[height : 2 * height, width : 2 * width] = x
    moved = {
        (dy, dx): padded[height - dy :, width - dx :][:height, :width]
        for dy in (-1, 0, 1)  # 9 / 8 and 8 / 8, rounded
        for dx in (-1, 0, 1)
    }
    found = [
        next(shift for shift, there in moved.items() if np.array_equal(there, image))
        for image in many(translation, x)
    ]
    assert set(found) == set(moved)


def test_cutout_zeroes_a_square_of_half_the_size_that_may_overlap_the_border(x):
    heights, widths = set(), set()
    for image in many(cutout, x):
        gone = (image == 0).all(axis=2)
        np.testing.assert_array_equal(image[~gone], x[~gone])
        rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
        assert gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        heights.add(len(rows))
        widths.add(len(columns))
    # centres from 0 to 8, both included: of 5 rows at least 3, of 4 columns 2
    assert heights == {3, 4, 5}
    assert widths == {2, 3, 4}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_image_has_its_own_random_numbers_and_keeps_its_shape(name, x):
    images = jnp.tile(x, (8, 1, 1, 1))
    both = augment(name, KEYS[:8], images)
    assert both.shape == images.shape
    assert both.dtype == images.dtype
    assert len(np.unique(np.asarray(both).reshape(8, -1), axis=0)) > 1
    np.testing.assert_array_equal(both[3:5], augment(name, KEYS[3:5], images[:2]))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_gradients_flow_to_the_pixels_that_are_left(name, x):
    x, direction = jnp.asarray(x), jnp.asarray(x[::-1])

    def total(x):
        weights = jnp.arange(x.size, dtype=jnp.float32).reshape(x.shape) / x.size
        return (weights * augment(name, KEYS[:1], x[None])[0]).sum()

    slope = (jax.grad(total)(x) * direction).sum()
    moved = (total(x + direction) - total(x - direction)) / 2  # linear in the pixels
    np.testing.assert_allclose(slope, moved, rtol=1e-3)


def test_policy_applies_its_names_in_order_and_each_with_other_numbers(x):
    images = jnp.asarray(x)[None]
    two = augment("cutout,color", KEYS[:1], images)
    first, second = (jax.random.fold_in(KEYS[0], i) for i in (0, 1))
    np.testing.assert_allclose(two[0], color(second, cutout(first, images[0])))
    assert augment("", KEYS[:1], images) is images


@pytest.mark.parametrize("policy", ["colour", "color,", "color,color", "color;cutout"])
def test_unknown_policies_are_refused_with_the_known_names(policy):
    with pytest.raises(ConfigError, match="color, translation, cutout") as caught:
        check_policy("augment.policy", policy)
    assert repr(policy) in str(caught.value)
