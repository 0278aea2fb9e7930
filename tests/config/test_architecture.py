import jax
import pytest

from sagan.config import Config, ConfigError, replace
from sagan.config.architecture import (
    base_and_doublings,
    discriminator_blocks,
    generator_blocks,
)
from sagan.state import count, initial_state, make_game

FEAT64 = {"g.attention": (64,), "d.attention": (64,)}
NONE = {"g.attention": (), "d.attention": ()}
SIZE64 = {"data.size": 64, "data.classes": 200}
CIFAR10 = {
    "data.size": 32,
    "data.classes": 10,
    "g.width": 256,
    "g.multipliers": (1, 1, 1, 1),
    "g.attention": (16,),
    "d.width": 128,
    "d.multipliers": (1, 1, 1, 1),
    "d.down": 2,
    "d.attention": (16,),
}


def shapes(values):
    return jax.eval_shape(lambda: initial_state(make_game(replace(Config(), values))))


@pytest.mark.parametrize(
    ("values", "g", "d"),
    [
        ({"data.classes": 1000}, 42_078_852, 39_463_618),  # official feat32
        ({"data.classes": 1000, **FEAT64}, 42_017_412, 39_448_258),
        ({"data.classes": 1000, **NONE}, 41_996_931, 39_443_137),
        ({"data.classes": 10}, 32_321_412, 38_449_858),
        ({"data.classes": 1}, 32_232_708, 38_440_642),
        (SIZE64, 13_387_396, 19_752_642),  # StudioGAN's log, Tiny-ImageNet
        (CIFAR10, 4_386_308, 1_075_586),  # StudioGAN's log, CIFAR10
    ],
    ids=["feat32", "feat64", "none", "10", "1", "64px", "cifar10"],
)
def test_parameter_counts_are_the_published_ones(values, g, d):
    state = shapes(values)
    assert (count(state.g.params), count(state.d.params)) == (g, d)


def test_the_residual_slot_has_about_the_parameters_of_attention():
    state = shapes({"data.classes": 1000, "g.block": "residual", "d.block": "residual"})
    assert count(state.g.params) - 41_996_931 == pytest.approx(81_921, rel=0.03)
    assert count(state.d.params) - 39_443_137 == pytest.approx(20_481, rel=0.03)


@pytest.mark.parametrize(
    ("size", "base", "doublings"),
    [
        (8, 4, 1), (12, 6, 1), (16, 4, 2), (32, 4, 3), (48, 6, 3), (64, 4, 4),
        (80, 5, 4), (96, 6, 4), (128, 4, 5), (224, 7, 5), (256, 4, 6), (512, 4, 7),
    ],
)  # fmt: skip
def test_every_size_is_a_base_doubled(size, base, doublings):
    assert base_and_doublings(size) == (base, doublings)


@pytest.mark.parametrize("size", [-8, 0, 4, 7, 9, 33, 100, 130, 2**7 + 2**6 + 1])
def test_other_sizes_are_refused_by_name(size):
    with pytest.raises(ConfigError, match=f"data.size = {size}: must be base"):
        base_and_doublings(size)


@pytest.mark.parametrize("size", [12, 32, 48, 96, 224, 512])
def test_networks_end_at_the_size_and_at_the_base(size):
    config = replace(Config(), {"data.size": size, **NONE})
    assert generator_blocks(config)[-1].resolution == size
    assert discriminator_blocks(config)[-1].resolution == base_and_doublings(size)[0]


def test_attention_fits_at_several_resolutions():
    config = replace(Config(), {"g.attention": (32, 64), "d.attention": (64, 8)})
    g, d = generator_blocks(config), discriminator_blocks(config)
    assert [b.resolution for b in g if b.slot] == [32, 64]
    assert [b.resolution for b in d if b.slot] == [64, 8]


def test_attention_where_no_block_ends_is_refused_with_what_there_is():
    config = replace(Config(), {"g.attention": (4,), "d.attention": (128,)})
    with pytest.raises(ConfigError, match="g.attention = 4.*8, 16, 32, 64, 128"):
        generator_blocks(config)
    with pytest.raises(ConfigError, match="d.attention = 128.*4, 8, 16, 32, 64"):
        discriminator_blocks(config)


def test_multipliers_of_the_wrong_number_are_refused():
    config = replace(Config(), {"g.multipliers": (1, 2), "d.multipliers": (1, 2)})
    with pytest.raises(ConfigError, match="g.multipliers.*needs 6"):
        generator_blocks(config)
    with pytest.raises(ConfigError, match="d.down = 5: must be 1 to 2"):
        discriminator_blocks(config)


def test_unconditional_networks_have_no_tables_and_no_embedding():
    state = shapes({"data.classes": 0})
    assert "embed" not in state.d.params
    assert state.g.params["block1"]["bn1"]["scale"].shape == (1024,)


def test_normalised_tables_have_the_parameters_of_plain_ones():
    plain = shapes({"data.classes": 5})
    normalised = shapes({"data.classes": 5, "g.sn_tables": "channels"})
    assert count(plain.g.params) == count(normalised.g.params)
    assert "u" in normalised.g.stats["spectral"]["block1"]["bn1"]["scale"]
