import jax
import numpy as np
import pytest
import scipy.stats

from sagan.data import pipeline, pixels
from sagan.sampling import attention_maps, sampler
from sagan.sampling.attention_maps import AttentionGrid
from sagan.state import abstract, generator_variables
from tests.support import planted

OPPOSITE = np.arange(16)[::-1]
RIGHT = np.roll(np.arange(16).reshape(4, 4), -1, axis=1).ravel()


@pytest.fixture(scope="module")
def config(tiny):
    return tiny(**planted.CONFIG)


@pytest.fixture(scope="module")
def read_g(config):
    reader = attention_maps.make_reader(config, "g")

    def read(looks_at, gamma=1.0):
        variables = generator_variables(planted.state(config, looks_at, gamma))
        z = sampler.latents(config, 0, np.arange(1))[0]
        image, reads = reader(variables, z, np.int32(3))
        return image, jax.device_get(reads["attention8"])

    return read


def cell_of_position():
    """Which of the 4x4 cells each of the 8x8 positions lies in."""
    row, column = np.divmod(np.arange(64), 8)
    return row // 2 * 4 + column // 2


@pytest.mark.parametrize("looks_at", [OPPOSITE, RIGHT], ids=["opposite", "right"])
def test_every_position_of_a_planted_generator_looks_where_it_must(read_g, looks_at):
    _, read = read_g(looks_at)
    assert read.beta.shape == (64, 16)
    np.testing.assert_allclose(read.beta.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(
        read.beta.argmax(axis=1), looks_at[cell_of_position()]
    )
    assert read.beta.max(axis=1).min() > 0.999


def test_the_map_of_a_shifted_plant_shifts(read_g):
    below = (RIGHT + planted.SIDE) % planted.SIDE**2
    first, second = (read_g(target)[1].beta for target in (RIGHT, below))
    shifted = np.roll(first.reshape(64, 4, 4), 1, axis=1).reshape(64, 16)
    np.testing.assert_allclose(second, shifted, atol=1e-3)


@pytest.mark.parametrize("gamma", [0.0, 0.5, -2.0])
def test_strength_is_the_size_of_what_is_added(read_g, gamma):
    # here h passes on both codes of the cell, as long as x itself
    assert read_g(OPPOSITE, gamma)[1].strength == pytest.approx(abs(gamma), rel=0.01)


@pytest.fixture(scope="module")
def read_d(config):
    reader = attention_maps.make_reader(config, "d")
    d = planted.state(config, OPPOSITE).d

    def read(image):
        variables = {"params": d.params, **d.stats}
        return reader(variables, pixels.to_float(image), np.int32(0))[1]["attention4"]

    return read


def test_a_planted_discriminator_looks_at_the_bright_corner(read_d):
    for corner in range(4):
        image = np.zeros((8, 8, 1), np.uint8)
        y, x = divmod(corner, 2)
        image[y * 4 : y * 4 + 4, x * 4 : x * 4 + 4] = 255
        wanted = np.tile(np.eye(4)[corner], (16, 1))
        np.testing.assert_allclose(read_d(image).beta, wanted, atol=1e-6)


def test_entropy_is_scipys_and_uniform_is_the_most():
    beta = np.random.default_rng(0).dirichlet(np.full(16, 0.2), size=64)
    beta[0], beta[1] = 1 / 16, np.eye(16)[3]
    bits = attention_maps.entropy_bits(beta.astype(np.float32))
    np.testing.assert_allclose(bits, scipy.stats.entropy(beta.T, base=2), atol=1e-5)
    assert bits[0] == pytest.approx(attention_maps.uniform_bits(AttentionGrid(16, 8)))
    assert bits[1] == 0


@pytest.mark.parametrize(
    "grid", [AttentionGrid(16, 8), AttentionGrid(7, 7), AttentionGrid(56, 7)], ids=str
)
def test_distance_is_that_of_the_plain_loop(grid):
    rng = np.random.default_rng(0)
    beta = rng.dirichlet(np.ones(grid.keys**2), size=grid.queries**2)
    pixels = grid.size / grid.queries
    wanted = np.zeros(len(beta))
    for j, i in np.ndindex(beta.shape):
        query = np.array(divmod(j, grid.queries)) * pixels + pixels / 2
        top = np.array(divmod(i, grid.keys)) * 2 * pixels  # of the 2x2 pooled ones
        wanted[j] += beta[j, i] * np.linalg.norm(top + pixels - query)
    far = attention_maps.distance_pixels(beta.astype(np.float32), grid)
    np.testing.assert_allclose(far, wanted, rtol=1e-5)
    alike = np.full_like(beta, 1 / grid.keys**2, np.float32)
    np.testing.assert_allclose(
        attention_maps.distance_pixels(alike, grid),
        attention_maps.uniform_pixels(grid),
        rtol=1e-5,
    )


def test_layers_are_those_of_the_network_in_its_order(tiny):
    config = tiny(data__size=16, g__attention=(16, 8), d__attention=(4, 8))
    assert list(attention_maps.attention_layers(config, "g")) == [
        "attention8",
        "attention16",
    ]
    assert list(attention_maps.attention_layers(config, "d")) == [
        "attention8",
        "attention4",
    ]
    assert not attention_maps.attention_layers(tiny(g__block="residual"), "g")


def test_a_runs_curves_are_means_over_images_and_positions(config, read_d):
    state, source = (
        planted.state(config, RIGHT, gamma=0.5),
        pipeline.open_source(config),
    )
    found = attention_maps.make_statistics(config, source)(state)
    assert set(found) == {
        f"{what}/{place}"
        for what in ("entropy", "distance", "strength")
        for place in ("g/attention8", "d/attention4")
    }
    assert found["entropy/g/attention8"] == pytest.approx(0, abs=0.01)
    assert found["strength/g/attention8"] == pytest.approx(0.5, rel=0.01)
    grid = AttentionGrid(8, 8)
    queries, keys = grid.query_centres(), grid.key_centres()
    far = np.linalg.norm(queries - keys[RIGHT[cell_of_position()]], axis=1).mean()
    assert found["distance/g/attention8"] == pytest.approx(far, rel=0.01)
    chosen = np.linspace(0, len(source) - 1, 8).astype(int)
    each = [
        attention_maps.entropy_bits(read_d(x).beta)
        for x in source.examples(chosen).image
    ]
    assert found["entropy/d/attention4"] == pytest.approx(np.mean(each), rel=1e-4)


def test_without_attention_there_is_no_curve(tiny):
    config = tiny(g__block="none", d__block="residual")
    assert (
        attention_maps.make_statistics(config, pipeline.open_source(config))(
            abstract(config)
        )
        == {}
    )
