from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sagan import attention
from sagan.attention import SelfAttention, attend, choose_chunks
from sagan.blocks import BLOCKS
from sagan.config import ModelConfig

LAYER = SelfAttention(ModelConfig())


@pytest.fixture(scope="module")
def layer():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 8))
    variables = LAYER.init(jax.random.key(1), x)
    return x, variables


def with_gamma(variables, gamma):
    params = {**variables["params"], "gamma": jnp.asarray(gamma)}
    return {**variables, "params": params}


def test_fresh_attention_is_the_identity(layer):
    x, variables = layer
    np.testing.assert_array_equal(LAYER.apply(variables, x), x)


def test_four_maps_have_the_channels_of_the_official_code_and_no_bias(layer):
    _, variables = layer
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {
        "f": {"kernel": (1, 1, 8, 1)},
        "g": {"kernel": (1, 1, 8, 1)},
        "h": {"kernel": (1, 1, 8, 4)},
        "v": {"kernel": (1, 1, 4, 8)},
        "gamma": (),
    }


def test_every_position_shares_one_among_the_pooled_keys(layer):
    x, variables = layer
    _, sown = LAYER.apply(variables, x, mutable=["intermediates"])
    (beta,) = sown["intermediates"]["beta"]
    assert beta.shape == (2, 4 * 6, 2 * 3)
    np.testing.assert_allclose(beta.sum(-1), 1.0, rtol=1e-5)


def test_attention_is_the_plain_loop_over_positions(layer):
    x, variables = layer
    gamma = 0.7
    y = LAYER.apply(with_gamma(variables, gamma), x)
    kernels = {
        name: np.asarray(variables["params"][name]["kernel"][0, 0], np.float64)
        for name in "fghv"
    }
    for name, w in kernels.items():  # one power iteration from the stored u
        v = np.asarray(variables["spectral"][name]["u"], np.float64) @ w.T
        v /= np.linalg.norm(v)
        kernels[name] = w / np.linalg.norm(v @ w)

    image = np.asarray(x[0], np.float64)
    keys, values = (
        (image @ kernels[name]).reshape(2, 2, 3, 2, -1).max((1, 3)).reshape(6, -1)
        for name in "fh"
    )
    for i in range(4):
        for j in range(6):
            scores = keys @ (image[i, j] @ kernels["g"])
            beta = np.exp(scores) / np.exp(scores).sum()
            wanted = image[i, j] + gamma * (beta @ values) @ kernels["v"]
            np.testing.assert_allclose(y[0, i, j], wanted, rtol=1e-4, atol=1e-5)


def test_far_positions_reach_each_other(layer):
    x, variables = layer

    def corner(x):
        return LAYER.apply(with_gamma(variables, 1.0), x)[0, 0, 0].sum()

    slope = jax.grad(corner)(x)
    assert jnp.abs(slope[0, 2:, 3:]).max() > 0  # a 3x3 convolution would give 0
    assert jnp.abs(slope[1]).max() == 0  # images do not mix


def test_softmax_is_float32_in_bfloat16(layer):
    x, variables = layer
    half = SelfAttention(ModelConfig(dtype="bfloat16"))
    y, sown = half.apply(variables, x, mutable=["intermediates"])
    assert y.dtype == jnp.bfloat16
    assert sown["intermediates"]["beta"][0].dtype == jnp.float32


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    # the scores and the gradients of both factors; not the sum over values and its own
    [(jnp.float32, 3), (jnp.bfloat16, 0)],  # for XLA: see attend
)
def test_float32_scores_and_their_gradients_have_full_precision(dtype, wanted):
    queries, keys, values = (jnp.ones((1, n, 2), dtype) for n in (4, 3, 3))

    def drawn(queries, keys):
        return attend(queries, keys, values)[0].sum()

    text = str(jax.make_jaxpr(jax.grad(drawn, argnums=(0, 1)))(queries, keys))
    full = text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
    assert (full, text.count("dot_general[")) == (wanted, 5)


def test_scores_of_bfloat16_are_exact_products_summed_in_float32():
    keys = jnp.asarray([[[256.0, 1.0]]], jnp.bfloat16)
    queries = jnp.asarray([[[1.0, 0.0], [1.0, 1.0]]], jnp.bfloat16)
    full = attend(queries, jnp.concatenate([keys, keys - 1], 1), keys.repeat(2, 1))[1]
    # scores 256 and 255, 257 and 255: bfloat16 would round 257 to 256
    wanted = jax.nn.softmax(jnp.asarray([[[1.0, 0.0], [2.0, 0.0]]]))
    np.testing.assert_allclose(full, wanted, rtol=1e-6)


@pytest.mark.parametrize("chunks", [2, 6, 24])
def test_chunks_give_the_same_values_and_gradients(layer, chunks):
    x, variables = layer
    weights = jax.random.normal(jax.random.key(2), x.shape)

    @partial(jax.jit, static_argnums=0)
    def run(module, params, x):
        def loss(params, x):
            full = {**variables, "params": params}
            y, moved = module.apply(full, x, mutable=["spectral"])
            return (weights * y).sum(), (y, moved)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    params = with_gamma(variables, 0.7)["params"]
    whole = run(LAYER, params, x)
    cut = run(SelfAttention(ModelConfig(attention_chunks=chunks)), params, x)
    assert jax.tree.structure(cut) == jax.tree.structure(whole)
    for a, b in zip(jax.tree.leaves(cut), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("images", "queries", "keys", "chunks"),
    [
        (64, 4096, 1024, 16),  # 1 GiB of beta, 64 MiB of it at a time
        (32, 4096, 1024, 8),
        (33, 4096, 1024, 16),  # 8.25, and a power of two
        (64, 1024, 256, 1),
        (65, 1024, 256, 2),
        (12, 49, 9, 1),
        (2000, 28**2, 14**2, 4),  # 19 would fit, but with too few queries each
        (64, 128**2, 64**2, 128),  # 256 would fit
    ],
)
def test_chunks_are_chosen_to_fit_the_chip(images, queries, keys, chunks):
    assert choose_chunks(images, queries, keys, cpu=False) == chunks
    assert choose_chunks(images, queries, keys, cpu=True) == 1


def test_layers_for_accelerators_choose_their_chunks(monkeypatch, layer):
    x, variables = layer
    monkeypatch.setattr(attention, "ON_CHIP", 192)  # of 1152 bytes
    monkeypatch.setattr(attention, "FEWEST", 2)

    def program(**model):
        module = SelfAttention(ModelConfig(**model))
        return str(jax.make_jaxpr(lambda x: module.apply(variables, x))(x))

    assert "f32[2,24,6]" not in program(target="accelerator")
    assert "f32[2,4,6]" in program(target="accelerator")
    assert "f32[2,24,6]" in program(target="accelerator", attention_chunks=1)
    assert "f32[2,24,6]" in program(target="cpu")


def test_chunks_never_hold_all_of_beta(layer):
    x, variables = layer

    def program(chunks):
        module = SelfAttention(ModelConfig(attention_chunks=chunks))

        def loss(params):
            return module.apply({**variables, "params": params}, x).sum()

        return str(jax.make_jaxpr(jax.grad(loss))(variables["params"]))

    assert "f32[2,24,6]" in program(1)
    assert "f32[2,24,6]" not in program(4)
    assert "f32[4,2,6,6]" not in program(4)  # nor its parts, kept for the gradient


def test_whoever_asks_for_beta_gets_all_of_it_in_spite_of_chunks(layer):
    x, variables = layer
    cut = SelfAttention(ModelConfig(attention_chunks=4))
    (y, sown), (whole, wanted) = (
        module.apply(with_gamma(variables, 0.7), x, mutable=["intermediates"])
        for module in (cut, LAYER)
    )
    np.testing.assert_array_equal(y, whole)
    jax.tree.map(np.testing.assert_array_equal, sown, wanted)


def test_chunks_that_do_not_divide_are_refused(layer):
    x, variables = layer
    with pytest.raises(ValueError, match="24 positions do not divide by 5 chunks"):
        SelfAttention(ModelConfig(attention_chunks=5)).apply(variables, x)


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="12 channels do not divide by 8"):
        LAYER.init(jax.random.key(0), jnp.ones((1, 4, 4, 12)))


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_keeps_the_shape_and_moves_u_only(name, layer):
    x, _ = layer
    block = BLOCKS[name](ModelConfig())
    variables = block.init(jax.random.key(0), x)
    assert set(variables) <= {"params", "spectral"}
    assert block.apply(variables, x).shape == x.shape
