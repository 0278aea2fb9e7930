"""Grids of samples: whole enlargements, in the rows of their classes."""

import numpy as np
import pytest

from sagan.sampling.grid import class_titles, image_grid

CELL, GAP, MARGIN = 64, 2, 10  # pixels
NAMES = ["cat", "a horse", "dog"]


def tiles(picture, left):
    """The cells of a picture whose first one begins `left` pixels from the left."""
    y, x = (
        range(at, n - MARGIN, CELL + GAP)
        for at, n in zip((MARGIN + GAP, left), picture.shape[:2], strict=True)
    )
    return [[picture[i : i + CELL, j : j + CELL] for j in x] for i in y]


def constant(*values, channels=1):
    return np.broadcast_to(
        np.array(values, np.uint8).reshape(-1, 1, 1, 1), (len(values), 4, 4, channels)
    )


def values_of(picture, left):
    for row in tiles(picture, left):
        assert all((np.ptp(tile, axis=(0, 1)) == 0).all() for tile in row)
    return [[int(tile[0, 0, 0]) for tile in row] for row in tiles(picture, left)]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_without_classes_fill_a_square(channels):
    picture = image_grid(constant(1, 2, 3, 4, 5, channels=channels))
    assert values_of(picture, MARGIN) == [[1, 2, 3], [4, 5, 255]]


def test_a_row_holds_the_images_of_a_class_beside_its_name():
    images, labels = constant(1, 2, 3, 4, 5), np.array([2, 0, 2, 0, 2])
    picture = image_grid(images, labels, NAMES)
    left = picture.shape[1] - MARGIN - 3 * CELL - 2 * GAP
    assert values_of(picture, left) == [[2, 4, 255], [1, 3, 5]]
    assert (picture[MARGIN:-MARGIN, MARGIN:left].min(axis=(1, 2)) < 255).any()  # a word


def test_a_class_of_many_images_has_several_rows_and_its_name_once():
    images, labels = constant(*range(1, 46)), np.array([1] * 42 + [2] * 3)
    picture = image_grid(images, labels, NAMES)
    left = picture.shape[1] - MARGIN - 20 * CELL - 19 * GAP
    rows = [[v for v in row if v < 255] for row in values_of(picture, left)]
    assert rows == [[*range(1, 21)], [*range(21, 41)], [41, 42], [43, 44, 45]]
    named = picture[MARGIN + GAP :, MARGIN:left].min(axis=(1, 2)) < 255
    at = [named[i * (CELL + GAP) :][:CELL].any() for i in range(4)]
    assert at == [True, False, False, True]


def test_about_one_image_of_a_class_has_its_name_below():
    picture = image_grid(constant(1, 2, 3), np.array([2, 0, 1]), NAMES)
    assert picture.shape[1] == 2 * MARGIN + 2 * CELL + GAP
    assert picture.shape[0] > 2 * MARGIN + 2 * (CELL + GAP) + 20
    below = picture[MARGIN + GAP + CELL :][:15, MARGIN:-MARGIN]
    assert (below[:, :CELL].min() < 128) and (below[:, CELL:].min() < 128)


@pytest.mark.parametrize(("size", "side"), [(28, 84), (64, 64), (128, 128)])
def test_small_images_are_enlarged_by_a_whole_factor(size, side):
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    picture = image_grid(image)[-MARGIN - side : -MARGIN, MARGIN : MARGIN + side]
    np.testing.assert_array_equal(picture[:: side // size, :: side // size], image[0])


def test_titles_of_classes():
    assert class_titles(2, ("0", "a\nb")) == ["class 0", "a\\nb"]
    assert class_titles(3, ()) == ["class 0", "class 1", "class 2"]
    assert class_titles(0, ()) == class_titles(None, ()) == []
