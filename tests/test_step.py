import dataclasses
import gc
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sagan import regularisers, state, step
from sagan.config import validation
from sagan.data.pipeline import Batch
from sagan.diagnostics import sigma_errors
from sagan.regularisers import Anchors
from sagan.training import parallel


def batch(config, seed=0):
    rng = np.random.default_rng(seed)
    data, d = config.data, config.optim.d_steps
    shape = (d, data.batch, data.size, data.size, data.channels)
    label = rng.integers(0, max(data.classes, 1), (d, data.batch), np.int32)
    return Batch(rng.integers(0, 256, shape, np.uint8), label)


def lively(start):
    """A state in which no part is idle: gammas, biases and tables are not zero."""
    rng = np.random.default_rng(1)

    def shake(x):
        return x + 0.1 * rng.standard_normal(x.shape).astype(np.float32)

    start = jax.device_get(start)  # on the host no step can take over its buffers
    g = start.g.replace(params=jax.tree.map(shake, start.g.params))
    d = start.d.replace(params=jax.tree.map(shake, start.d.params))
    return start.replace(g=g, d=d)


def with_sgd(game, lr=0.05):
    sgd = optax.sgd(lr)  # Adam would hide a gradient that is wrong by a factor
    return game._replace(g_tx=sgd, d_tx=sgd)


@pytest.fixture(autouse=True)
def sgd(monkeypatch):
    monkeypatch.setattr(state, "_optimizer", lambda config, rate: optax.sgd(0.05))


def mapped_step(config, count, start, steps=1):
    mapped = parallel.map_step(state.make_game(config), jax.devices()[:count])
    current = mapped.place_state(start)
    for i in range(steps):
        current, metrics = mapped.step(current, mapped.place_batch(batch(config, i)))
    return jax.device_get((current, metrics))


def changed(before, after):
    parts = {}
    for name in ("g", "d"):
        for part in ("params", "stats"):
            old, new = (getattr(getattr(s, name), part) for s in (before, after))
            same = jax.tree.map(np.array_equal, old, new)
            parts[f"{name}.{part}"] = jax.tree.all(same)
    return {name for name, same in parts.items() if not same}


def assert_same(a, b, rtol=2e-4):
    # Each device sums its images by itself: float32 differs in the last bits, more
    # where a leaf's entries cancel. Scale by the leaf's largest entry, and by the
    # largest of all: a gradient wrong by a factor moves leaves by a hundred times this.
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        scale = np.abs(y).max() + 1e-2
        error = np.abs(np.asarray(x, np.float64) - y).max() / scale
        assert error < rtol, f"{jax.tree_util.keystr(path)}: {error}"


@pytest.fixture(scope="module")
def start(tiny):
    return lively(state.create(tiny()))


@pytest.fixture(scope="module")
def parts(tiny, start):
    """The state before, after one D step, and after a G step from there."""
    game = with_sgd(state.make_game(tiny()))
    x = jnp.asarray(batch(tiny()).image[0], jnp.float32) / 127.5 - 1
    y = jnp.asarray(batch(tiny()).label[0])
    after_d, _ = jax.jit(partial(step.d_step, game, purpose=1))(start, x, y)
    after_g, _ = jax.jit(partial(step.g_step, game, n=16))(after_d)
    return start, after_d, after_g


def test_d_step_moves_the_discriminator_and_the_statistics_of_both(parts):
    before, after, _ = parts
    assert changed(before, after) == {"d.params", "d.stats", "g.stats"}


def test_g_step_moves_the_generator_only(parts):
    _, before, after = parts
    assert changed(before, after) == {"g.params", "g.stats"}


def test_every_parameter_gets_a_gradient(parts):
    before, after_d, after_g = parts
    for old, new in ((before.d, after_d.d), (after_d.g, after_g.g)):
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), old.params, new.params)
        still = [k for k, v in jax.tree_util.tree_leaves_with_path(moved) if not v]
        # a bias before batch norm has gradient zero but for rounding
        assert not [k for k in still if "bias" not in str(k)]


@pytest.fixture(scope="module")
def reference(tiny, start):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "_optimizer", lambda config, rate: optax.sgd(0.05))
        return mapped_step(tiny(), 1, start, steps=2)


def test_step_does_not_depend_on_the_number_of_devices(tiny, start, reference):
    assert_same(mapped_step(tiny(), 2, start, steps=2), reference)


CASES = {
    "global": {},
    "grouped": {"g__bn_group": 4},
    "unconditional": {"data__classes": 0},
    "unconditional, grouped over devices": {
        "data__classes": 0,
        "g__bn_group": 8,
        "optim__d_steps": 2,
    },
    "grouped, augmented and regularised": {
        "g__bn_group": 4,
        "augment__policy": "color,translation,cutout",
        "reg__lecam": 0.3,
        "reg__consistency_real": 2.0,
        "reg__consistency_fake": 3.0,
        "reg__r1": 0.5,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_variants_do_not_depend_on_devices_or_accumulation(tiny, case):
    jax.clear_caches()  # see conftest.py
    changes = {**CASES[case], "data__batch": 32}
    first = lively(state.create(tiny(**changes)))
    reference = mapped_step(tiny(**changes), 1, first)  # 1 x 32
    for way in ("pmap", "jit"):
        config = tiny(**changes, run__parallel=way)
        assert_same(mapped_step(config, 8, first), reference)  # 8 x 4
        assert_same(mapped_step(config, 2, first), reference)  # 2 x 16
        if "grouped" in case:  # the statistics of a group need all of it at once
            cut = tiny(**changes, run__parallel=way, optim__accumulate=4)
            assert_same(mapped_step(cut, 1, first), reference)  # 4 x 8, one by one


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pmap", "jit"])
def test_steps_reuse_the_memory_of_the_state(tiny, start, way):
    mapped = parallel.map_step(
        state.make_game(tiny(run__parallel=way)), jax.devices()[:2]
    )
    placed = [mapped.place_batch(batch(tiny(), i)) for i in range(2)]
    current = mapped.place_state(start)

    def bytes_alive_after(steps):
        nonlocal current
        for i in range(steps):
            before = current
            current, metrics = mapped.step(current, placed[i % 2])
            jax.block_until_ready(metrics)
        kept = [
            jax.tree_util.keystr(path)
            for path, leaf in jax.tree_util.tree_leaves_with_path(before)
            if not leaf.is_deleted()
        ]
        # the last sigmas are only looked at, so they do not even go in
        assert all(path.endswith("['sigma']") for path in kept), kept
        del before, metrics
        gc.collect()
        return sum(x.nbytes for x in jax.live_arrays())

    assert bytes_alive_after(200) == bytes_alive_after(3)


@pytest.mark.slow
def test_accumulation_gives_the_update_of_the_whole_batch(tiny, start):
    whole, cut = (
        mapped_step(tiny(g__bn_group=4, optim__accumulate=parts), 1, start)
        for parts in (1, 4)
    )
    assert_same(cut, whole)


@pytest.mark.slow
def test_remat_and_chunks_give_the_same_states(tiny, start, reference):
    # also that the power iteration, computed twice, moves u once
    saving = tiny(model__remat=True, model__attention_chunks=4)
    assert_same(mapped_step(saving, 1, start, steps=2), reference, rtol=1e-5)
    assert state.abstract(saving) == state.abstract(tiny())


def test_whoever_asks_a_network_for_beta_gets_it_in_spite_of_remat(tiny):
    game = state.make_game(tiny(model__remat=True, model__attention_chunks=4))

    def sown(params, stats):
        variables, y = {"params": params, **stats}, jnp.zeros(3, jnp.int32)
        z, asked = jnp.zeros((3, 4)), ["intermediates"]
        return game.g.apply(variables, z, y, train=False, mutable=asked)[1]

    g = state.abstract(game.config).g
    found = jax.eval_shape(sown, g.params, g.stats)["intermediates"]
    (beta,) = found["attention8"]["beta"]
    assert beta.shape == (3, 64, 16)


@pytest.mark.parametrize("player", ["g", "d"])
def test_remat_keeps_less_for_the_gradient(tiny, player):
    def kept(remat):
        game = state.make_game(tiny(model__remat=remat))
        own = getattr(state.abstract(game.config), player)
        y, train = jnp.zeros(16, jnp.int32), {"train": True} if player == "g" else {}
        x = jnp.zeros((16, 4) if player == "g" else (16, 8, 8, 1))

        def backward(params, stats):
            def run(params):
                variables = {"params": params, **stats}
                net = getattr(game, player)
                return net.apply(variables, x, y, mutable=list(stats), **train)

            return jax.vjp(run, params)[1]  # a PyTree of what it keeps

        residuals = jax.eval_shape(backward, own.params, own.stats)
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    assert kept(True) < 0.7 * kept(False)


def test_zero_learning_rates_leave_the_weights_alone(tiny, start, monkeypatch):
    # fails if spectral normalisation writes to the weights
    monkeypatch.setattr(state, "_optimizer", lambda config, rate: optax.sgd(0.0))
    after, _ = mapped_step(tiny(), 1, start)
    assert changed(start, after) == {"g.stats", "d.stats"}


@pytest.mark.slow
def test_d_steps_are_that_many_d_updates_and_one_g_update(tiny, start):
    config = tiny(optim__d_steps=2)
    game = with_sgd(state.make_game(config))
    after, _ = jax.jit(partial(step.train_step, game))(start, batch(config))
    by_hand = start
    for i in range(2):
        x = jnp.asarray(batch(config).image[i], jnp.float32) * (2 / 255) - 1
        y = jnp.asarray(batch(config).label[i])
        d_step = jax.jit(partial(step.d_step, game, purpose=1 + i))
        by_hand, _ = d_step(by_hand, x, y)
    by_hand, _ = jax.jit(partial(step.g_step, game, n=16))(by_hand)
    assert_same((after.g, after.d), (by_hand.g, by_hand.d))


@pytest.mark.slow
def test_d_steps_in_a_loop_are_those_one_after_another(tiny, start):
    # model.target chooses the loop; without `fast`, nothing else
    both = {"optim__d_steps": 3, "model__fast": False, "data__classes": 10}
    loop, unrolled = (
        mapped_step(tiny(model__target=target, **both), 1, start)
        for target in ("accelerator", "cpu")
    )
    assert_same(loop, unrolled, rtol=1e-5)


@pytest.mark.parametrize(
    ("target", "d_steps", "loops"),
    [("cpu", 3, 0), ("accelerator", 1, 0), ("accelerator", 3, 1)],
)
def test_only_accelerators_loop_over_several_d_steps(tiny, target, d_steps, loops):
    config = tiny(model__target=target, optim__d_steps=d_steps, run__parallel="jit")
    game = state.make_game(config)
    given = parallel.abstract_arguments(game, jax.devices()[:1])
    program = jax.make_jaxpr(partial(step.train_step, game))(*given)
    scans = [e for e in program.eqns if e.primitive.name == "scan"]
    assert sum(e.params["length"] > e.params["unroll"] for e in scans) == loops


def test_latents_belong_to_the_example_and_the_purpose(tiny):
    game = state.make_game(tiny(data__classes=10))
    z, y = step.draw_latents(game, jnp.array(3), 1, 64)
    first, _ = step.draw_latents(game, jnp.array(3), 1, 8)
    np.testing.assert_array_equal(z[:8], first)
    for other in (
        step.draw_latents(game, jnp.array(4), 1, 64),
        step.draw_latents(game, jnp.array(3), 2, 64),
    ):
        assert not np.isin(z, other[0]).any()
    assert set(np.unique(y)) == set(range(10))  # every label is drawn
    assert abs(z.mean()) < 0.2 and abs(z.std() - 1) < 0.1


@pytest.mark.slow
def test_averages_start_as_copies_and_then_keep_their_share(tiny, start):
    game = state.make_game(tiny(ema__decays=(0.5, 0.9), ema__start=1))
    now = state.Average(start.g.params, start.g.stats["batch_stats"])
    zero = jax.tree.map(jnp.zeros_like, now)

    def move(done):
        moved = start.replace(step=jnp.array(done), ema=(zero, zero))
        return state.update_ema(game, moved)

    assert_same(move(1), (now, now))
    half, tenth = move(2)
    assert_same(half, jax.tree.map(lambda x: x / 2, now))
    assert_same(tenth, jax.tree.map(lambda x: x * 0.1, now))


def test_metrics_tell_losses_logits_gammas_sigmas_norms_and_rates(reference):
    _, metrics = reference
    assert set(metrics) == {
        *("d_loss", "d_real", "d_fake", "d_grad_norm", "g_loss", "g_grad_norm"),
        *("gamma/g/attention8", "gamma/d/attention4", "lr/g", "lr/d"),
        *("g_weight_norm", "d_weight_norm"),
        *("sigma/g_max", "sigma/g_min", "sigma/d_max", "sigma/d_min"),
        *("d_saturated", "real_diversity", "fake_diversity"),
        *("nonfinite/d_gradient", "nonfinite/d_state"),
        *("nonfinite/g_gradient", "nonfinite/g_state"),
    }
    assert all(np.ndim(value) == 0 for value in metrics.values())


@pytest.mark.slow
def test_jit_computes_each_image_on_one_device(tiny, start):
    def flops(count):
        mapped = parallel.map_step(
            state.make_game(tiny(run__parallel="jit")), jax.devices()[:count]
        )
        placed = mapped.place_batch(batch(tiny()))
        compiled = mapped.lower(mapped.place_state(start), placed).compile()
        return compiled.cost_analysis()["flops"]  # of one device

    assert flops(4) < 0.4 * flops(1)  # a quarter, and what does not depend on images


@pytest.mark.slow
def test_bfloat16_moves_as_float32_does_but_for_its_rounding(tiny, start):
    half = mapped_step(tiny(model__dtype="bfloat16"), 1, start)[0]
    full = mapped_step(tiny(), 1, start)[0]
    for leaf in jax.tree.leaves((half.g, half.d, half.ema)):
        assert leaf.dtype in (np.float32, np.int32)
    old, a, b = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves((s.g.params, s.d.params))])
        for s in (start, half, full)
    )
    cosine = (a - old) @ (b - old)
    cosine /= np.linalg.norm(a - old) * np.linalg.norm(b - old)
    assert cosine > 0.98


def test_rates_fall_to_zero_at_the_last_step(tiny):
    config = tiny(optim__decay_start=10, run__steps=20, optim__d_steps=2)
    g, d = (state.learning_rate(config, name) for name in "gd")
    np.testing.assert_allclose([g(0), g(10), g(15), g(20)], [1e-4, 1e-4, 5e-5, 0])
    np.testing.assert_allclose([d(20), d(30), d(40)], [4e-4, 2e-4, 0])


def test_clipping_bounds_the_gradient_of_each_player(tiny, monkeypatch):
    monkeypatch.undo()
    tx = state.make_game(tiny(optim__clip=1e-3)).d_tx
    plain = state.make_game(tiny()).d_tx
    grads = {"w": jnp.array([3.0, 4.0])}
    moments = tx.update(grads, tx.init(grads))[1][1][0].nu["w"]
    np.testing.assert_allclose(moments, 1e-3 * 1e-6 * jnp.array([0.36, 0.64]), 1e-4)
    assert plain.update(grads, plain.init(grads))[1][0].nu["w"][1] > 1e-3


def test_a_batch_that_does_not_divide_is_refused_by_name(tiny):
    with pytest.raises(ValueError, match="data.batch = 16.*3 devices"):
        validation.check_batch(tiny(), 3)
    with pytest.raises(ValueError, match="g.bn_group = 8: must divide the 4 images"):
        validation.check_batch(tiny(g__bn_group=8, optim__accumulate=2), 2)
    validation.check_batch(tiny(g__bn_group=8), 4)  # a group may span two devices


@pytest.mark.parametrize("way", ["pmap", "jit"])
def test_abstract_arguments_are_those_of_a_run(tiny, start, way):
    config = tiny(run__parallel=way, optim__d_steps=2)
    four = jax.devices()[:4]
    game = state.make_game(config)
    mapped = parallel.map_step(game, four)
    real = mapped.place_state(start), mapped.place_batch(batch(config))

    def facts(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)

    planned_state, planned_batch = parallel.abstract_arguments(game, four)
    assert facts(planned_batch) == facts(real[1])
    assert facts(planned_state.g.params) == facts(real[0].g.params)


@pytest.mark.parametrize("field", ["optim__loss", "g__block", "d__block"])
def test_an_unknown_name_lists_the_known_ones(tiny, field):
    with pytest.raises(ValueError, match="= 'nope': unknown; there are"):
        state.make_game(tiny(**{field: "nope"}))


def test_unresolved_classes_are_refused(tiny):
    config = tiny()
    open_classes = dataclasses.replace(config.data, classes=None)
    with pytest.raises(ValueError, match="data.classes"):
        state.make_game(dataclasses.replace(config, data=open_classes))


EVERYTHING = {
    "augment__policy": "color,translation,cutout",
    "reg__lecam": 0.3,
    "reg__lecam_start": 1,
    "reg__consistency_real": 2.0,
    "reg__consistency_fake": 3.0,
    "reg__r1": 0.5,
}


@pytest.mark.slow
def test_d_gradient_is_that_of_the_loss_and_every_weighted_regulariser(tiny):
    config = tiny(**EVERYTHING)
    game = with_sgd(state.make_game(config), lr=1.0)
    start = jax.tree.map(jnp.asarray, lively(state.create(config)))
    anchors = Anchors(jnp.float32(0.5), jnp.float32(-0.5))
    start = start.replace(step=jnp.int32(1), lecam=anchors)
    x = jnp.asarray(batch(config).image[0], jnp.float32) / 127.5 - 1
    y = jnp.asarray(batch(config).label[0])
    after, update = jax.jit(partial(step.d_step, game, purpose=1))(start, x, y)

    z, fake_y = step.draw_latents(game, start.step, 1, len(x))
    keys = step.augmentation_keys(game, start.step, 1, len(x))
    fake, _ = step.apply_g(game, start.g.params, start.g.stats, z, fake_y)
    seen = regularisers.views(config, x, fake, keys)

    def loss(params):
        def d(x, y):
            return game.d.apply({"params": params, **start.d.stats}, x, y)

        real, fake = d(seen["real"], y), d(seen["fake"], fake_y)
        return (
            jax.nn.relu(1 - real).mean()
            + jax.nn.relu(1 + fake).mean()
            + 0.3 * (jax.nn.relu(real + 0.5) ** 2).mean()
            + 0.3 * (jax.nn.relu(0.5 - fake) ** 2).mean()
            + 2.0 * ((real - d(seen["real_variant"], y)) ** 2).mean()
            + 3.0 * ((fake - d(seen["fake_variant"], fake_y)) ** 2).mean()
            + 0.5 * regularisers.r1(lambda x: d(x, y), seen["real"])
        )

    assert_same(update.grads, jax.jit(jax.grad(loss))(start.d.params))
    assert {name for name in update.averages if name.startswith("reg/")} == {
        "reg/lecam",
        "reg/consistency_real",
        "reg/consistency_fake",
        "reg/r1",
    }
    expected = 0.99 * 0.5 + 0.01 * float(update.averages["d_real"])
    assert float(after.lecam.real) == pytest.approx(expected)
    expected = 0.99 * -0.5 + 0.01 * float(update.averages["d_fake"])
    assert float(after.lecam.fake) == pytest.approx(expected)


def test_views_are_augmented_each_with_other_numbers(tiny):
    config = tiny(**EVERYTHING)
    game = state.make_game(config)
    x = jnp.full((4, 8, 8, 1), 0.5)
    keys = step.augmentation_keys(game, jnp.int32(0), 1, 4)
    seen = regularisers.views(config, x, x, keys)
    assert list(seen) == ["real", "fake", "real_variant", "fake_variant"]
    assert not np.allclose(seen["real"], seen["fake"])
    assert not np.allclose(seen["real"], seen["real_variant"])
    other = step.augmentation_keys(game, jnp.int32(1), 1, 4)
    again = regularisers.views(config, x, x, other)
    assert not np.allclose(seen["real"], again["real"])
    only = config.reg.__class__(consistency_fake=1.0)
    plain = dataclasses.replace(tiny(), reg=only)
    seen = regularisers.views(plain, x, x, keys)
    assert list(seen) == ["real", "fake", "fake_variant"]
    assert seen["real"] is x


def test_g_learns_through_the_augmentation(tiny, start, parts):
    game = with_sgd(state.make_game(tiny(augment__policy="translation")))
    _, after_d, plain = parts
    after_g, _ = jax.jit(partial(step.g_step, game, n=16))(after_d)
    assert changed(after_d, after_g) == {"g.params", "g.stats"}
    assert_same(after_g.g.stats, plain.g.stats)  # the same latents
    with pytest.raises(AssertionError):
        assert_same(after_g.g.params, plain.g.params)


def test_what_is_switched_off_is_not_even_traced(tiny, start, monkeypatch):
    def refuse(*args):
        raise AssertionError("traced")

    for module, names in (
        (regularisers, ("augment", "lecam", "consistency", "r1")),
        (step, ("augment",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    game = state.make_game(tiny())
    assert step.augmentation_keys(game, jnp.int32(0), 0, 4) is None
    jax.eval_shape(partial(step.train_step, game), start, batch(tiny()))
    assert state.abstract(tiny()).lecam is None


@pytest.mark.parametrize("off", ["g__sn", "d__sn"])
def test_without_spectral_norm_parameters_keep_their_names(tiny, start, off):
    config = tiny(**{off: False})
    bare = state.abstract(config)
    for name in ("g", "d"):
        mine, usual = getattr(bare, name), getattr(start, name)
        assert jax.tree.structure(mine.params) == jax.tree.structure(usual.params)
        assert ("spectral" in mine.stats) == (not off.startswith(name))
    after, metrics = jax.eval_shape(
        partial(step.train_step, state.make_game(config)), bare, batch(config)
    )
    assert jax.tree.structure(after) == jax.tree.structure(bare)
    with_sigma = {name[6] for name in metrics if name.startswith("sigma/")}
    assert with_sigma == {"g", "d"} - {off[0]}
    errors = jax.eval_shape(partial(sigma_errors, config), bare)
    assert {name[12] for name in errors} == {"g", "d"} - {off[0]}
    neither = tiny(g__sn=False, d__sn=False)
    assert not jax.eval_shape(partial(sigma_errors, neither), state.abstract(neither))
