"""benchmarks/long_range.py: its data, its measure, the sizes of its generators."""

import importlib
import pathlib
import sys

import numpy as np
import pytest

from sagan import config as config_lib
from sagan.data import pipeline

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("far_hues"), importlib.import_module("long_range")
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def far_hues(modules):
    return modules[0]


@pytest.fixture(scope="module")
def long_range(modules):
    return modules[1]


def images(far_hues, n, **kwargs):
    return np.stack([far_hues.render(0, number, **kwargs) for number in range(n)])


def test_the_renderer_is_a_function_of_seed_and_number(far_hues):
    first = far_hues.render(3, 5)
    assert np.array_equal(first, far_hues.render(3, 5))
    assert not np.array_equal(first, far_hues.render(3, 6))
    assert not np.array_equal(first, far_hues.render(4, 5))


def test_real_images_obey_and_those_with_two_hues_only_by_chance(far_hues):
    real = far_hues.obeys(images(far_hues, 100))
    assert real["share"] == 1 and real["median"] < 1 and real["faint"] == 0
    free = far_hues.obeys(images(far_hues, 100, shared=False))
    # the standard deviation of the share of 100 is 3.1 %
    assert abs(free["share"] - far_hues.CHANCE) < 0.1
    assert 60 < free["median"] < 120


def test_hues_are_measured_and_their_absence_is_seen(far_hues):
    """Orange and its neighbour by hand; a place that lost its colour never obeys."""
    image = np.full((1, 24, 24, 3), 80, np.uint8)
    assert far_hues.hue_distance(image)[0] == 180
    image[0, 2:6, 2:6] = (200, 100, 100)
    assert far_hues.hue_distance(image)[0] == 180
    image[0, 18:22, 18:22] = (200, 200, 100)
    assert far_hues.hue_distance(image)[0] == pytest.approx(60)
    image[0, 18:22, 18:22] = (150, 60, 60)
    assert far_hues.hue_distance(image)[0] == pytest.approx(0)


def test_the_data_set_is_read_as_any_other(far_hues, tmp_path):
    far_hues.write(tmp_path, images=3)
    config = config_lib.DataConfig(
        name=far_hues.NAME, path=str(tmp_path), size=24, classes=0
    )
    source = pipeline.open_source(config_lib.Config(data=config))
    read = source.examples(np.arange(3)).image
    assert np.array_equal(read, images(far_hues, 3))


def test_the_three_generators_are_of_one_size(long_range, tmp_path):
    sizes = [
        long_range.parameters(long_range.config(block, 0, 10, tmp_path))
        for block in long_range.BLOCKS
    ]
    assert len(sizes) == 3 and max(sizes) / min(sizes) < 1.01


def test_the_mass_on_the_other_object_by_hand(far_hues, long_range):
    """Every query inside A looks at B; those of B everywhere; others at the middle."""
    image = images(far_hues, 2)
    beta = np.zeros((2, 12, 12, 6, 6))
    beta[..., 3, 3] = 1
    beta[:, :4, :4] = 0
    beta[:, :4, :4, 5, 4] = 1
    beta[:, 8:, 8:] = 1 / 36
    found = long_range.masses(image, beta)
    assert found["other"] == pytest.approx((1 + 4 / 36) / 2)
    assert found["A to B"] == 1 and found["B to A"] == pytest.approx(4 / 36)
    assert found["own"] == pytest.approx((0 + 4 / 36) / 2)
    assert found["middle"] == pytest.approx((0 + 4 / 36) / 2)
