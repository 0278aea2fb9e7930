import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from sagan.batch_norm import BatchNorm, SNTable, group_moments
from sagan.config import ModelConfig
from sagan.layers import SNConv, SNDense, SNEmbed, spectral_normalise

MODEL = ModelConfig()


def test_power_iteration_converges_to_the_largest_singular_value_of_scipy():
    w = jax.random.normal(jax.random.key(0), (27, 8))
    u = jax.random.normal(jax.random.key(1), (1, 8))
    for _ in range(100):
        sigma, u = spectral_normalise(w, u, eps=1e-12, detach=True)
    np.testing.assert_allclose(sigma, scipy.linalg.svdvals(w)[0], rtol=1e-5)


def test_gradient_through_a_converged_iteration_does_not_depend_on_detaching():
    w = jax.random.normal(jax.random.key(0), (12, 5))
    u = jnp.asarray(scipy.linalg.svd(w)[2][:1])

    def sigma(w, detach):
        return spectral_normalise(w, u, eps=1e-12, detach=detach)[0]

    detached, through = (jax.grad(sigma)(w, d) for d in (True, False))
    np.testing.assert_allclose(detached, through, atol=1e-5)
    far = jnp.ones((1, 5))
    detached, through = (
        jax.grad(lambda w, d=d: spectral_normalise(w, far, eps=0.0, detach=d)[0])(w)
        for d in (True, False)
    )
    assert jnp.abs(detached - through).max() > 1e-3


def unit(x):
    return x / np.linalg.norm(x)


def test_stored_vectors_evaluate_any_weight_until_the_next_training_pass():
    layer = SNDense(ModelConfig(sn_eval="stored"), features=4)
    rng = np.random.default_rng(0)
    x, w, later = rng.normal(size=(2, 5)), *rng.normal(size=(2, 5, 4))
    variables = layer.init(jax.random.key(0), jnp.asarray(x, jnp.float32))
    u = np.asarray(variables["spectral"]["u"], np.float64)
    bias = {"bias": jnp.zeros(4)}

    def with_weight(w, spectral):
        params = {"kernel": jnp.asarray(w, jnp.float32), **bias}
        return {"params": params, "spectral": spectral}

    trained, moved = layer.apply(
        with_weight(w, variables["spectral"]), jnp.asarray(x), mutable=["spectral"]
    )
    v = unit(u @ w.T)
    u = unit(v @ w)
    np.testing.assert_allclose(trained, x @ w / (v @ w @ u.T), rtol=1e-4)
    np.testing.assert_allclose(moved["spectral"]["v"], v, rtol=1e-4, atol=1e-6)
    evaluated = layer.apply(with_weight(later, moved["spectral"]), jnp.asarray(x))
    np.testing.assert_allclose(evaluated, x @ later / (v @ later @ u.T), rtol=1e-4)


def test_before_any_training_pass_stored_vectors_give_a_norm_at_most_the_largest():
    layer = SNDense(ModelConfig(sn_eval="stored"), features=40)
    variables = layer.init(jax.random.key(0), jnp.eye(30))
    w = variables["params"]["kernel"]
    ratio = w / layer.apply(variables, jnp.eye(30))
    largest = scipy.linalg.svdvals(w)[0]
    assert 0.3 * largest < ratio[0, 0] < largest


def test_a_clamped_epsilon_changes_no_weight_of_usual_size_and_an_added_one_does():
    w, u = jnp.eye(3)[:, :2] * jnp.array([[3.0, 1]]), jnp.array([[1.0, 0]])
    exact, added = (
        spectral_normalise(w, u, eps=0.1, detach=True, clamp=clamp)[0]
        for clamp in (True, False)
    )
    assert exact == pytest.approx(3)
    assert added == pytest.approx(3 * (3 / 3.1) * (9 / 3.1) / (9 / 3.1 + 0.1))
    tiny, _ = spectral_normalise(w / 100, u, eps=0.1, detach=True, clamp=True)
    assert tiny == pytest.approx(0.03 * 0.3 * 0.09)  # v = 0.03 / 0.1, u = 0.009 / 0.1


@pytest.mark.parametrize(("side", "entries"), [("channels", 5), ("classes", 7)])
def test_a_normalised_tables_u_has_one_entry_for_what_its_side_says(side, entries):
    layer = SNTable(MODEL, classes=7, features=5, offset=1.0, side=side)
    y = jnp.arange(7)
    variables = layer.init(jax.random.key(0), y)
    assert variables["spectral"]["u"].shape == (1, entries)
    for _ in range(60):
        rows, moved = layer.apply(variables, y, mutable=["spectral"])
        variables = {**variables, **moved}
    np.testing.assert_allclose(scipy.linalg.svdvals(rows - 1)[0], 1.0, rtol=1e-5)


def test_u_moves_only_where_the_collection_is_mutable():
    layer = SNConv(MODEL, features=4)
    x = jnp.ones((1, 4, 4, 2))
    variables = layer.init(jax.random.key(0), x)
    frozen = layer.apply(variables, x)
    moving, moved = layer.apply(variables, x, mutable=["spectral"])
    np.testing.assert_array_equal(frozen, moving)  # both use the iterated sigma
    assert not np.allclose(moved["spectral"]["u"], variables["spectral"]["u"])


def test_without_spectral_norm_a_layer_is_the_plain_one():
    plain, normalised = (SNConv(MODEL, sn, features=4) for sn in (False, True))
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    variables = plain.init(jax.random.key(0), x)
    twin = normalised.init(jax.random.key(0), x)
    assert list(variables) == ["params"]
    jax.tree.map(np.testing.assert_array_equal, variables["params"], twin["params"])
    y, moved = normalised.apply(twin, x, mutable=["spectral"])
    sigma = moved["spectral"]["sigma"]
    assert abs(sigma - 1) > 0.01
    np.testing.assert_allclose(plain.apply(variables, x), sigma * y, atol=1e-5)


def test_initialising_leaves_u_at_its_random_start():
    x = jnp.ones((1, 4, 4, 2))
    u = SNConv(MODEL, features=512).init(jax.random.key(0), x)["spectral"]["u"]
    assert jnp.abs(u).max() <= 2 and 0.8 < u.std() < 0.95  # truncated normal: 0.88


def test_the_normalised_weight_has_norm_one_once_u_has_converged():
    layer = SNEmbed(MODEL, classes=7, features=5)
    y = jnp.arange(7)
    variables = layer.init(jax.random.key(0), y)
    for _ in range(60):
        rows, moved = layer.apply(variables, y, mutable=["spectral"])
        variables = {**variables, **moved}
    assert variables["spectral"]["u"].shape == (1, 7)
    np.testing.assert_allclose(scipy.linalg.svdvals(rows)[0], 1.0, rtol=1e-5)


def test_a_1x1_convolution_is_one_linear_layer_at_every_position():
    layer = SNConv(MODEL, features=5, kernel_size=1)
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 6))
    variables = layer.init(jax.random.key(1), x)
    params = {**variables["params"], "bias": jnp.arange(5.0)}
    y = layer.apply({**variables, "params": params}, x)
    kernel = params["kernel"][0, 0]
    sigma, _ = spectral_normalise(
        kernel, variables["spectral"]["u"], eps=1e-12, detach=True
    )
    for i in range(3):
        for j in range(4):
            dense = x[:, i, j] @ (kernel / sigma) + params["bias"][None]
            np.testing.assert_allclose(y[:, i, j], dense, rtol=1e-4, atol=1e-5)


def test_bfloat16_keeps_weights_and_power_iteration_in_float32():
    layer = SNConv(ModelConfig(dtype="bfloat16"), features=4)
    x = jnp.ones((1, 4, 4, 2))
    variables = layer.init(jax.random.key(0), x)
    y, moved = layer.apply(variables, x, mutable=["spectral"])
    assert y.dtype == jnp.bfloat16
    for leaf in jax.tree.leaves((variables, moved)):
        assert leaf.dtype == jnp.float32


def test_power_iteration_and_logits_are_multiplied_at_full_precision():
    layer, x = SNDense(MODEL, features=1), jnp.ones((2, 3))
    variables = layer.init(jax.random.key(0), x)
    text = str(jax.make_jaxpr(layer.apply)(variables, x))
    full = text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
    assert full == text.count("dot_general[") == 5  # two products for sigma, u, v, h W


def norm(**changes):
    return BatchNorm(**{"group": 0, "momentum": 0.9, "eps": 1e-5, **changes})


def test_batch_norm_gives_each_class_its_scale_and_bias():
    x = jax.random.normal(jax.random.key(0), (4, 2, 2, 3))
    y = jnp.array([0, 1, 1, 0])
    layer = norm(classes=2)
    variables = layer.init(jax.random.key(0), x, y, train=True)
    scale = jnp.array([[1.0, 2, 3], [4, 5, 6]])
    bias = jnp.array([[1.0, 1, 1], [-1, -1, -1]])
    variables = {**variables, "params": {"scale": scale, "bias": bias}}
    out, _ = layer.apply(variables, x, y, train=True, mutable=["batch_stats"])
    unit = (x - x.mean((0, 1, 2))[None, None, None]) / np.sqrt(x.var((0, 1, 2)) + 1e-5)[
        None, None, None
    ]
    wanted = unit * scale[y][:, None, None] + bias[y][:, None, None]
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)


def test_running_averages_keep_their_momentum_and_take_biased_moments():
    x = 3 + jax.random.normal(jax.random.key(0), (4, 2, 2, 3))
    y = jnp.zeros(4, int)
    layer = norm()
    variables = layer.init(jax.random.key(0), x, y, train=True)
    _, moved = layer.apply(variables, x, y, train=True, mutable=["batch_stats"])
    stats = moved["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-5)
    _, moved = norm(unbiased=True).apply(
        variables, x, y, train=True, mutable=["batch_stats"]
    )
    unbiased = 0.9 + 0.1 * x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(moved["batch_stats"]["var"], unbiased, rtol=1e-5)
    kept, same = layer.apply(variables, x, y, train=False, mutable=["batch_stats"])
    unmoved = jax.tree.map(
        jnp.array_equal, same, {"batch_stats": variables["batch_stats"]}
    )
    assert jax.tree.all(unmoved)
    np.testing.assert_allclose(kept, x / np.sqrt(1 + 1e-5), rtol=1e-5)


@pytest.mark.parametrize("group", [0, 2, 4])
def test_unbiased_variances_divide_by_one_less_than_shares_the_moments(group):
    x = jax.random.normal(jax.random.key(0), (8, 1, 2, 3))
    y, images = jnp.zeros(8, int), group or 8
    layer = norm(unbiased=True, group=group, axis_name="batch")
    variables = norm().init(jax.random.key(0), x, y, train=True)
    _, moved = jax.pmap(
        lambda x, y: layer.apply(variables, x, y, train=True, mutable="batch_stats"),
        axis_name="batch",
        devices=jax.devices()[:2],
    )(x.reshape(2, 4, 1, 2, 3), y.reshape(2, 4))
    groups = np.asarray(x, np.float64).reshape(8 // images, -1, 3)
    wanted = 0.9 + 0.1 * groups.var(axis=1, ddof=1).mean(axis=0)
    np.testing.assert_allclose(moved["batch_stats"]["var"][1], wanted, rtol=1e-5)


def test_moments_are_exact_where_the_mean_is_large():
    x = 1e3 + jax.random.normal(jax.random.key(0), (8, 4, 4, 2))
    _, var = group_moments(x, 0, None)
    wanted = np.asarray(x, np.float64).var((0, 1, 2))
    np.testing.assert_allclose(var[0], wanted, rtol=1e-4)


@pytest.mark.parametrize("group", [0, 2, 4, 8])
def test_groups_are_the_same_on_one_device_and_on_four(group):
    x = jax.random.normal(jax.random.key(0), (8, 2, 2, 3))
    mean, var = group_moments(x, group, None)
    assert mean.shape == (8 // (group or 8), 3)
    each_mean, each_var = jax.pmap(
        lambda x: group_moments(x, group, "batch"),
        axis_name="batch",
        devices=jax.devices()[:4],
    )(x.reshape(4, 2, 2, 2, 3))
    devices_a_group = max(1, (group or 8) // 2)
    wanted = jnp.repeat(mean, devices_a_group, axis=0).reshape(4, -1, 3)
    np.testing.assert_allclose(each_mean, wanted, atol=1e-6)
    wanted = jnp.repeat(var, devices_a_group, axis=0).reshape(4, -1, 3)
    np.testing.assert_allclose(each_var, wanted, atol=1e-6)


@pytest.mark.parametrize("layer", [SNConv, SNDense, SNEmbed, SNTable])
def test_a_layer_without_its_number_of_features_is_an_error(layer):
    with pytest.raises(TypeError, match="missing"):
        layer(MODEL)
