import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sagan import state
from sagan.data import pixels
from sagan.sampling import sampler


@pytest.fixture(scope="module")
def trained(tiny):
    config = tiny()
    return config, state.generator_variables(state.create(config))


def images(trained, labels, **changes):
    config, variables = trained
    pieces = sampler.samples(config, variables, labels, **{"seed": 1, **changes})
    return np.concatenate(list(pieces))


def test_samples_do_not_depend_on_the_batch(trained):
    labels = np.arange(10, dtype=np.int32)
    whole = images(trained, labels, batch=10).astype(int)
    cut = images(trained, labels, batch=4).astype(int)
    assert whole.shape == (10, 8, 8, 1)
    assert np.abs(whole - cut).max() <= 1  # rounding to uint8


def test_samples_do_not_depend_on_the_number_of_devices(trained, monkeypatch):
    labels = np.arange(8, dtype=np.int32)
    spread = images(trained, labels, batch=8).astype(int)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    assert np.abs(spread - images(trained, labels, batch=8)).max() <= 1  # rounding


def test_seed_and_label_decide_a_sample(trained):
    zeros, ones = np.zeros(4, np.int32), np.ones(4, np.int32)
    first = images(trained, zeros)
    np.testing.assert_array_equal(first, images(trained, zeros))
    assert (first != images(trained, zeros, seed=2)).any()
    assert (images(trained, ones) == images(trained, ones)).all()


def test_truncation_bounds_the_latents(trained):
    config, _ = trained
    z = sampler.latents(config, 0, np.arange(500), 0.5)
    assert jnp.abs(z).max() <= 0.5 and z.std() > 0.2
    assert jnp.abs(sampler.latents(config, 0, np.arange(500))).max() > 2


def test_uint8_to_float_and_back_is_exact():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    back = pixels.to_uint8(jnp.asarray(pixels.to_float(every)))
    np.testing.assert_array_equal(back, every)
    edges = jnp.array([-2.0, -1.0, 1.0, 3.0]).reshape(1, 2, 2, 1)
    assert pixels.to_uint8(edges).ravel().tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize(("classes", "rows"), [(0, 8), (3, 3), (10, 10), (1000, 10)])
def test_a_grid_has_a_row_for_each_class_or_ten_of_many(tiny, classes, rows):
    z, y = sampler.fixed_inputs(tiny(data__classes=classes), columns=8)
    assert (len(z), len(y)) == (rows * 8, rows * 8)
    shown = np.unique(y)
    assert len(shown) == (rows if classes else 1)
    assert shown[-1] == max(classes - 1, 0)
