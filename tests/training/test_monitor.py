import contextlib
import json
import os
import pathlib
import signal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sagan import config as config_lib
from sagan import diagnostics
from sagan import state as state_lib
from sagan.checkpoints import manager
from sagan.config import ConfigError
from sagan.data.pipeline import Batch
from sagan.losses import LOSSES
from sagan.runtime import files
from sagan.training import divergence, monitor, parallel
from sagan.training.divergence import Diverged
from sagan.training.feedback import Feedback
from sagan.training.logger import Logger
from tests.support.runs import rows, silent, train

ROOT = pathlib.Path(__file__).parents[2]


def healthy(step):
    """Values as those of a digits run, from bad to good in its first hundred steps."""
    late = min(step / 100, 1.0)
    wave = np.sin(step * 1.7)
    return {
        **{"d_loss": 1.5 + 0.4 * wave, "g_loss": 0.3 * wave},
        **{"d_grad_norm": 30 - 25 * late + 2 * wave, "g_grad_norm": 2 + wave},
        **{"d_weight_norm": 17.0, "g_weight_norm": 40.0},
        **{"d_real": 3 - 2.5 * late, "d_fake": -2 + 1.5 * late},
        "d_saturated": 0.9 - 0.6 * late + 0.09 * wave,
        **{"real_diversity": 0.47, "fake_diversity": 0.35 + 0.1 * wave},
        **dict.fromkeys(divergence.NONFINITE_LEAF, -1.0),
    }


NAMES = {name: ["a", "b", "c", "d"] for name in divergence.NONFINITE_LEAF}


def findings(changes, steps=300):
    """(step, name, since) of all findings, where changes(step) replaces values."""
    detector, found = divergence.Detector(NAMES), []
    for step in range(1, steps + 1):
        new = detector.examine(step, {**healthy(step), **changes(step)})
        found += [(step, finding.name, finding.since) for finding in new]
        assert all(finding.message.count("\n") == 0 for finding in new)
    return found


def from_200(**values):
    return lambda step: values if step >= 200 else {}


def test_a_healthy_run_is_passed_in_silence():
    assert findings(lambda step: {}) == []


nan, inf = float("nan"), float("inf")
SICK = {
    "loss": ({"d_loss": nan}, "nonfinite", 1),
    "gradient": ({"g_grad_norm": nan}, "nonfinite", 1),
    "moments": ({"nonfinite/g_state": 3.0}, "nonfinite", 1),
    "saturated": ({"d_saturated": 0.99}, "discriminator_saturation", 50),
    "loud": ({"d_fake": -3e4}, "diverging_logits", 1),
    "collapsed": ({"fake_diversity": 0.01}, "mode_collapse", 20),
    "exploded D": ({"d_grad_norm": 6e3}, "d_exploding_gradients", 3),
    "exploded G": ({"g_grad_norm": 1e4}, "g_exploding_gradients", 3),
    "still D": ({"d_grad_norm": 0.0}, "d_vanishing_gradients", 20),
    "still G": ({"g_grad_norm": 0.0}, "g_vanishing_gradients", 20),
    "sigma D": ({"sigma_error/d_max": 2.0}, "d_spectral_norm_lag", 2),
    "sigma G": ({"sigma_error/g_max": 2.0}, "g_spectral_norm_lag", 2),
}


@pytest.mark.parametrize("case", SICK)
def test_a_finding_is_told_once_with_the_step_that_showed_it_first(case):
    values, name, lasts = SICK[case]
    assert findings(from_200(**values)) == [(199 + lasts, name, 200)]


@pytest.mark.parametrize("case", SICK)
def test_a_sign_that_passes_sooner_is_none(case):
    values, _, lasts = SICK[case]
    short = lambda step: values if 200 <= step < 199 + lasts else {}  # noqa: E731
    assert findings(short) == []


def test_ordinary_gradients_after_none_at_all_are_no_explosion():
    detector = divergence.Detector({})
    for step in range(200):
        norm = 0.3 if step % 5 > 2 else 0.0  # a hinge that is often saturated
        assert not detector.examine(step, {"d_grad_norm": norm})
    assert not [f for s in range(3) for f in detector.examine(s, {"d_grad_norm": 0.3})]


def test_a_sign_that_comes_again_is_told_again():
    def twice(step):
        gone = 240 <= step < 250
        return {} if step < 200 or gone else {"fake_diversity": 0.0}

    assert [found[0] for found in findings(twice)] == [219, 269]


def test_every_check_is_tested():
    assert {name for _, name, _ in SICK.values()} == {"nonfinite", *divergence.CHECKS}


def test_the_message_names_the_leaf_that_is_not_finite():
    names = {**NAMES, "nonfinite/d_gradient": ["d/gradient/a", "d/gradient/b"]}
    values = {**healthy(1), "d_loss": nan, "nonfinite/d_gradient": 1.0}
    (finding,) = divergence.Detector(names).examine(1, values)
    assert finding.message == (
        "d_loss is nan: the discriminator diverged;"
        " the first leaf that is not finite is d/gradient/b"
    )


def test_the_leaf_is_the_one_that_the_step_made_first():
    names = {name: [name] for name in divergence.NONFINITE_LEAF}
    order = ("d_gradient", "d_state", "g_gradient", "g_state")
    for i in range(4):  # all later ones are not finite either
        values = dict.fromkeys((f"nonfinite/{name}" for name in order[i:]), 0.0)
        (finding,) = divergence.Detector(names).examine(1, {**healthy(1), **values})
        assert finding.message.endswith(f"is nonfinite/{order[i]}")


# what the values are made of


def test_saturated_is_the_share_of_logits_without_a_slope():
    real, fake = jnp.array([1.5, 0.9, 1.0, -3.0]), jnp.array([-1.5, 0.0, 2.0, 3.0])

    def share(loss):
        return float(diagnostics.saturated(LOSSES[loss], real, fake))

    assert share("hinge") == 3 / 8
    assert share("wasserstein") == 0
    assert share("non_saturating") == 0
    far = diagnostics.saturated(LOSSES["non_saturating"], real + 6, fake - 6)
    assert far == 5 / 8


def test_diversity_is_the_deviation_over_the_batch_however_it_is_cut():
    x = np.random.default_rng(0).uniform(-1, 1, (8, 4, 4, 3)).astype(np.float32)
    x *= np.linspace(0, 1, 4, dtype=np.float32)[:, None]
    expected = np.sqrt(x.astype(np.float64).var(axis=0).mean())
    x = jnp.asarray(x)
    halves = (diagnostics.moments(x[:4]) + diagnostics.moments(x[4:])) / 2
    for cut in (diagnostics.moments(x), halves):
        np.testing.assert_allclose(diagnostics.diversity(cut), expected, rtol=1e-5)
    same = diagnostics.moments(jnp.broadcast_to(x[:1] / 3, x.shape))
    assert diagnostics.diversity(same) < 1e-3


@pytest.fixture(scope="module")
def start(tiny):
    return jax.device_get(state_lib.create(tiny(data__classes=10)))


@pytest.mark.parametrize("bad", [nan, inf])
def test_the_first_leaf_that_is_not_finite_is_found_by_its_path(start, bad):
    @jax.jit
    def first(tree):
        return diagnostics.first_nonfinite(tree, diagnostics.sum_of_all(tree))

    def found(state):
        parts = diagnostics.trained_parts(state)
        return {player: int(first(tree)) for player, tree in parts.items()}

    assert found(start) == {"d": -1, "g": -1}
    names = monitor.leaf_names(start)
    d_names, g_names = names["nonfinite/d_state"], names["nonfinite/g_state"]
    poisoned = jax.tree.map(np.array, start)
    poisoned.d.params["block1"]["conv2"]["bias"][3] = bad
    poisoned.d.params["block2"]["conv1"]["bias"][0] = bad
    poisoned.ema[0].params["stem"]["bias"][0] = bad
    index = found(poisoned)
    assert d_names[index["d"]] == "d/params/block1/conv2/bias"
    assert g_names[index["g"]] == "ema/0/params/stem/bias"
    assert "d/opt_state/0/nu/block1/conv1/bias" in d_names
    assert g_names[0].startswith("g/")


def test_leaves_of_one_shape_are_searched_one_by_one():
    leaves = [jnp.ones(3), jnp.ones((2, 2)), jnp.array(7), jnp.ones(3), jnp.array(1.0)]
    for i in (0, 1, 3, 4):
        for bad in (nan, inf, -inf):
            tree = [*leaves[:i], leaves[i].at[...].set(bad), *leaves[i + 1 :]]
            found = diagnostics.first_nonfinite(tree, diagnostics.sum_of_all(tree))
            assert found == i


def test_numbers_whose_sum_overflows_are_finite():
    tree = [jnp.full(3, 3e38), jnp.full(3, 3e38)]
    assert jnp.isinf(diagnostics.sum_of_all(tree))
    assert diagnostics.first_nonfinite(tree, diagnostics.sum_of_all(tree)) == -1


def test_sigma_errors_are_those_of_a_svd(tiny, start):
    config = tiny(data__classes=10)
    errors = jax.device_get(monitor.measure_sigma(config, 0, jax.device_put(start)))
    layers = {name for name in errors if not name.endswith("_max")}
    assert {"sigma_error/g/stem", "sigma_error/d/attention4/f"} <= layers
    for name in layers:
        _, player, *path = name.split("/")
        params, spectral = start.g if player == "g" else start.d, None
        params, spectral = params.params, params.stats["spectral"]
        for part in path:
            params, spectral = params[part], spectral[part]
        embedding = "embedding" in params
        w = np.asarray(params["embedding" if embedding else "kernel"], np.float64)
        w = w.T if embedding else w.reshape(-1, w.shape[-1])
        u = np.asarray(spectral["u"], np.float64)
        v = u @ w.T / np.linalg.norm(u @ w.T)
        estimate = np.linalg.norm(v @ w)  # v w u'^T where u' = v w / |v w|
        top = np.linalg.svd(w, compute_uv=False)[0]
        np.testing.assert_allclose(errors[name], top / estimate - 1, atol=2e-6)
    for player in "gd":
        every = [errors[n] for n in layers if n.startswith(f"sigma_error/{player}/")]
        assert errors[f"sigma_error/{player}_max"] == max(every)
        assert len(every) == sum(
            path[-1].key == "u"
            for path, _ in jax.tree_util.tree_leaves_with_path(
                getattr(start, player).stats["spectral"]
            )
        )


@pytest.mark.parametrize("shape", [(40, 3), (3, 40), (7, 7)])
def test_top_singular_value_of_any_shape(shape):
    w = jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)
    top = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)[0]
    np.testing.assert_allclose(diagnostics.top_singular_value(w), top, rtol=1e-6)
    assert np.isfinite(diagnostics.top_singular_value(w * nan))


# what becomes of them


def test_slow_values_are_logged_at_their_step_and_indices_of_leaves_are_not(
    tmp_path, tiny, start, monkeypatch
):
    examined = {}

    def examine(self, step, values):
        examined[step] = values
        return monitor.Verdict([])

    monkeypatch.setattr(monitor.Monitor, "examine", examine)
    config = tiny(run__log_every=100, run__tensorboard=False)
    watching = monitor.Monitor(tmp_path, config, start, active=True)
    with Logger(tmp_path, config, 0) as logger:
        feedback = Feedback(watching, logger, silent)
        for step in range(1, 5):
            slow = {"sigma_error/g_max": jnp.float32(0.25)} if step == 2 else {}
            values = {**healthy(step), **slow, "images_per_s": 1.0}
            feedback.put(step, values, logged=bool(slow))
        feedback.flush()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert (json.loads(line)["step"], json.loads(line)["sigma_error/g_max"]) == (
        2,
        0.25,
    )
    assert not any(name.startswith("nonfinite") for name in json.loads(line))
    assert sorted(examined) == [1, 2, 3, 4]
    assert set(examined[3]) == set(healthy(3)) and "sigma_error/g_max" in examined[2]


def test_lines_of_steps_to_be_done_again_go_and_those_gone_back_from_stay(tmp_path):
    path = tmp_path / "monitor.jsonl"
    rows = [(50, 0), (51, 0), (10, 1), (30, 1)]  # at 51 back, to a step below 10
    text = [json.dumps({"step": s, "rollbacks": r}) + "\n" for s, r in rows]
    for step, rollbacks, kept in ((20, 1, 3), (50, 0, 1), (5, 0, 0), (9, 2, 4)):
        path.write_text("".join(text))
        files.drop_lines_after(path, step, rollbacks)
        assert len(path.read_text().splitlines()) == kept


class Old(NamedTuple):
    step: jax.Array


def test_checkpoints_from_a_step_on_are_set_aside_and_not_restored(tmp_path):
    checkpoints = manager.Checkpoints(tmp_path, 5)
    for step in (2, 4, 6):
        checkpoints.save(step, Old(jnp.int32(step)))
    checkpoints.set_aside_from(4)
    assert checkpoints.steps() == [2]
    assert sorted(p.name for p in (tmp_path / "diverged").iterdir()) == ["4.0", "6.0"]
    checkpoints.save(4, Old(jnp.int32(44)))
    checkpoints.set_aside_from(3)
    checkpoints.set_aside_from(3)  # nothing is left
    assert {p.name for p in tmp_path.glob("diverged/4.*")} == {"4.0", "4.1"}
    target = Old(jax.ShapeDtypeStruct((), jnp.int32))
    assert checkpoints.restore(target)[1] == 2
    checkpoints.set_aside_from(0)
    assert checkpoints.restore(target) is None  # from the first step again
    checkpoints.close()


# training


@pytest.fixture
def poison(monkeypatch):
    """Makes one kernel NaN in D's update 5, until `below` rollbacks."""

    def poison(below):
        map_step = parallel.map_step

        def poisoned(game):
            run, full = game.config.run, game.config.optim.d_lr
            spared = game.d_lr(0) <= full * run.rollback_factor**below

            def update(grads, state, params):
                updates, state = game.d_tx.update(grads, state, params)
                kernel = updates["block1"]["conv1"]["kernel"]
                bad = (state[0].count == 5) & (not spared)
                updates["block1"]["conv1"]["kernel"] = jnp.where(bad, nan, kernel)
                return updates, state

            d_tx = optax.GradientTransformation(game.d_tx.init, update)
            return map_step(game._replace(d_tx=d_tx))

        monkeypatch.setattr(parallel, "map_step", poisoned)

    return poison


LEAF = "d/params/block1/conv1/kernel"


@pytest.mark.slow
def test_by_default_a_nan_stops_the_run_and_the_line_names_its_leaf(
    tiny, tmp_path, poison
):
    poison(below=9)
    with pytest.raises(Diverged, match=f"step 5: g_loss is nan: .*{LEAF}; the newest"):
        train(tiny(data__classes=10), tmp_path / "run")
    (line,) = rows(tmp_path / "run" / "monitor.jsonl")
    assert (line["step"], line["since"], line["finding"]) == (5, 5, "nonfinite")
    assert LEAF in line["message"]


@pytest.mark.slow
def test_with_rollback_a_nan_is_left_behind_at_a_lower_rate(tiny, tmp_path, poison):
    poison(below=1)
    config = tiny(data__classes=10, run__on_divergence="rollback")
    said = []
    state = train(config, tmp_path / "run", report=said.append)
    assert (int(state.step), int(state.rollbacks)) == (6, 1)
    lines = rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in lines] == [1, 2, 3, 4, 5, 6]
    rates = [row["lr/d"] for row in lines]
    np.testing.assert_allclose(rates, [4e-4] * 3 + [2e-4] * 3)
    np.testing.assert_allclose([row["lr/g"] for row in lines], 1e-4)
    (told,) = [line for line in said if LEAF in line]
    assert told.endswith("back to step 3, with 0.5 of optim.d_lr")
    found = [
        (row["step"], row["finding"], row["since"])
        for row in rows(tmp_path / "run" / "monitor.jsonl")
    ]
    assert found == [(5, "nonfinite", 5), (5, "rollback", 3)]


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_killed_after_it_went_back_comes_to_the_same_end(
    tiny, tmp_path, poison, stopped
):
    poison(below=1)
    config = tiny(
        data__classes=10, run__on_divergence="rollback", run__checkpoint_every=2
    )

    def die(line):
        if stopped and "; back to step" in line:
            os.kill(os.getpid(), signal.SIGTERM)
        elif line.startswith("step 5 of 6"):  # the first time that it gets there
            raise Killed

    with contextlib.nullcontext() if stopped else pytest.raises(Killed):
        train(config, tmp_path / "killed", report=die)
    left = [p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()]
    assert sorted(left) == ["2", *([] if stopped else ["4"]), "diverged"]
    killed = train(config, tmp_path / "killed")
    unbroken = train(config, tmp_path / "unbroken")
    for x, y in zip(jax.tree.leaves(killed), jax.tree.leaves(unbroken), strict=True):
        np.testing.assert_array_equal(x, y)
    for name in ("metrics.jsonl", "monitor.jsonl"):
        assert rows(tmp_path / "killed" / name) == rows(tmp_path / "unbroken" / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stop", [5, 9]
)  # between since and the checkpoint; in a streak
def test_a_run_stopped_before_it_goes_back_comes_to_the_same_end(
    tiny, tmp_path, monkeypatch, stop
):
    map_step, name = parallel.map_step, "discriminator_saturation"
    check = divergence.CHECKS[name]._replace(lasts=5)
    monkeypatch.setitem(divergence.CHECKS, name, check)

    def saturated(game):
        mapped = map_step(game)

        def step(state, batch):
            now = int(state.step) + 1 >= 7 and int(state.rollbacks) == 0
            state, scalars = mapped.step(state, batch)
            return state, {**scalars, "d_saturated": float(now)}

        return mapped._replace(step=step)

    monkeypatch.setattr(parallel, "map_step", saturated)
    changes = {"run__on_divergence": "rollback", "run__checkpoint_every": 4}
    unbroken = train(tiny(run__steps=14, **changes), tmp_path / "unbroken")
    train(tiny(run__steps=stop, **changes), tmp_path / "run")
    state = train(tiny(run__steps=14, **changes), tmp_path / "run")
    found = rows(tmp_path / "run" / "monitor.jsonl")
    assert [(row["finding"], row["step"], row["since"]) for row in found] == [
        (name, 11, 7),
        ("rollback", 11, 4),
    ]
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(unbroken), strict=True):
        np.testing.assert_array_equal(x, y)
    for log in ("metrics.jsonl", "monitor.jsonl"):
        assert rows(tmp_path / "run" / log) == rows(tmp_path / "unbroken" / log)


@pytest.mark.parametrize("split", [*range(0, 120, 13)])
def test_a_detector_goes_on_from_the_memory_of_another(split):
    def values(step):
        bad = {"d_saturated": 1.0} if step > 40 else {}
        bad |= {"d_grad_norm": 1e4} if step >= 110 else {}
        return {**healthy(step), **bad}

    def examine(detector, steps):
        return [f for step in steps for f in detector.examine(step, values(step))]

    first, whole = divergence.Detector(NAMES), divergence.Detector(NAMES)
    found = examine(first, range(1, split + 1))
    memory = json.loads(json.dumps(first.memory))  # as a checkpoint keeps it
    second = divergence.Detector(NAMES, memory)
    found += examine(second, range(split + 1, 121))
    assert found == examine(whole, range(1, 121))
    assert {f.name for f in found} == {
        "discriminator_saturation",
        "d_exploding_gradients",
    }
    assert second.memory == whole.memory


@pytest.mark.parametrize(
    "memory",
    [
        [1],
        {"past": {}},
        {"past": {"d_grad_norm": ["a"]}, "streaks": {}},
        {"past": {}, "streaks": {"nonfinite": 5}},
        {"past": [], "streaks": {}},
    ],
)
def test_a_memory_that_is_none_of_ours_is_one_error(memory):
    with pytest.raises(ConfigError, match="memory of the monitor is not as it was"):
        divergence.Detector(NAMES, memory)


@pytest.mark.parametrize("done", [0, 1, 2])
def test_the_monitor_sends_back_only_so_often(tiny, start, tmp_path, done):
    config = tiny(run__on_divergence="rollback", run__rollbacks=2)
    state = start.replace(rollbacks=np.int32(done))
    watching = monitor.Monitor(tmp_path, config, state, active=True)
    assert watching.examine(1, healthy(1)) == ([], None, None)
    verdict = watching.examine(2, {**healthy(2), "g_loss": nan})
    if done < 2:
        assert "g_loss is nan" in verdict.rollback.message and not verdict.error
    else:
        assert "g_loss is nan" in str(verdict.error) and not verdict.rollback
        assert isinstance(verdict.error, Diverged)
    (line,) = rows(tmp_path / "monitor.jsonl")
    assert (line["step"], line["since"], line["rollbacks"]) == (2, 2, done)


def test_a_nan_loss_stops_the_run_even_if_a_leaf_was_not_finite_before(
    tiny, start, tmp_path
):
    watching = monitor.Monitor(tmp_path, tiny(), start, active=True)
    leaf = {"nonfinite/g_state": 3.0}
    verdict = watching.examine(1, {**healthy(1), **leaf})
    assert len(verdict.lines) == 1 and verdict.error is None
    assert watching.examine(2, {**healthy(2), **leaf}) == ([], None, None)
    verdict = watching.examine(3, {**healthy(3), **leaf, "d_loss": nan})
    assert isinstance(verdict.error, Diverged)
    assert str(verdict.error).startswith("step 3: d_loss is nan")


@pytest.mark.parametrize("on_divergence", ["warn", "rollback"])
def test_a_wrong_sigma_is_told_and_training_goes_on(
    tiny, start, tmp_path, on_divergence
):
    said, off = [], {"sigma_error/d_max": 2.0, "sigma_error/d/head": 2.0}
    config = tiny(run__on_divergence=on_divergence)
    watching = monitor.Monitor(tmp_path, config, start, active=True)
    for step in (1, 2, 3):
        verdict = watching.examine(step, {**healthy(step), **off})
        assert verdict.rollback is None and verdict.error is None
        said += verdict.lines
    (line,) = said
    assert line.startswith("step 2: spectral normalisation of d/head lags")
    other = monitor.Monitor(tmp_path / "none", config, start, active=False)
    for step in (1, 2, 3):
        other.examine(step, {**healthy(step), **off})
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_run_goes_back_only_so_often(tiny, tmp_path, poison):
    poison(below=9)
    config = tiny(
        data__classes=10,
        run__on_divergence="rollback",
        run__rollbacks=2,
        run__checkpoint_every=100,
    )
    with pytest.raises(
        Diverged, match="step 5: .*already rolled back run.rollbacks = 2 times"
    ):
        train(config, tmp_path / "run")
    back = [
        (row["rollbacks"], row["since"])
        for row in rows(tmp_path / "run" / "monitor.jsonl")
        if row["finding"] == "rollback"
    ]
    assert back == [(0, 0), (1, 0)]  # without a checkpoint: from the first step


@pytest.mark.slow
def test_a_rollback_scales_the_discriminators_update_and_no_other(tiny, start):
    game = state_lib.make_game(tiny(data__classes=10))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 16, 8, 8, 1), np.uint8)
    batch = Batch(image, np.arange(16, dtype=np.int32)[None] % 10)
    d, stats, rates = [], [], []
    for rollbacks in (0, 1, 3):
        mapped = parallel.map_step(state_lib.after_rollbacks(game, rollbacks))
        state = mapped.place_state(start.replace(rollbacks=np.int32(rollbacks)))
        placed = mapped.place_batch(batch)
        after, metrics = jax.device_get(mapped.step(state, placed))
        move = jax.tree.map(np.subtract, after.d.params, start.d.params)
        d.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(move)]))
        stats.append((after.d.opt_state, after.g.stats["batch_stats"]["bn_out"]))
        rates.append((metrics["lr/d"], metrics["lr/g"]))
        assert int(after.rollbacks) == rollbacks
    assert np.abs(d[0]).max() > 1e-4
    for i, factor in ((1, 0.5), (2, 0.125)):
        np.testing.assert_allclose(d[i], factor * d[0], atol=1e-7)
        np.testing.assert_allclose(rates[i], (factor * rates[0][0], rates[0][1]))


def test_without_a_rollback_the_optimizer_is_optax_adam_bit_for_bit(tiny):
    rng = np.random.default_rng(0)
    params, grads = (
        {"w": jnp.asarray(rng.standard_normal(999), jnp.float32)} for _ in range(2)
    )
    game = state_lib.make_game(tiny(optim__decay_start=1))
    rate = state_lib.learning_rate(game.config, "d")
    adam = optax.adam(rate, b1=0.0, b2=0.999)
    lowered = state_lib.after_rollbacks(game, 1)
    for tx in (game.d_tx, lowered.d_tx):
        structures = map(jax.tree.structure, (adam.init(params), tx.init(params)))
        assert len({*structures}) == 1  # one checkpoint fits both

    def moved(tx):
        @jax.jit
        def step(params, state):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        now, state = params, tx.init(params)
        for _ in range(3):
            now, state = step(now, state)
        return np.asarray(now["w"])

    np.testing.assert_array_equal(moved(game.d_tx), moved(adam))
    assert (moved(lowered.d_tx) != moved(adam)).any()


def digits(steps, **changes):
    named = {name.replace("__", "."): value for name, value in changes.items()}
    cadence = {"run.steps": steps, "run.watch_every": 10, "run.tensorboard": False}
    return config_lib.load(ROOT / "configs" / "digits.py", {**cadence, **named})


def told(workdir):
    path = workdir / "monitor.jsonl"
    return [row["finding"] for row in rows(path)] if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        (
            {"optim__g_lr": 10.0, "optim__d_lr": 10.0},
            {"diverging_logits", "d_vanishing_gradients"},
        ),
        ({"optim__g_lr": 10.0}, {"mode_collapse", "g_vanishing_gradients"}),
    ],
)
def test_digits_pass_in_silence_and_not_with_a_rate_of_10(tmp_path, changes, expected):
    train(digits(60, **changes), tmp_path / "run")
    assert expected <= set(told(tmp_path / "run"))
    assert bool(told(tmp_path / "run")) == bool(expected)


@pytest.mark.slow
def test_a_generator_that_gives_one_image_is_found_and_left_behind(
    tmp_path, monkeypatch
):
    map_step = parallel.map_step

    def collapsing(game):
        mapped = map_step(game)

        def step(state, batch):
            if int(state.step) == 20 and int(state.rollbacks) == 0:
                zero = jax.tree.map(jnp.zeros_like, state.g.params["bn_out"])
                g = state.g.replace(params={**state.g.params, "bn_out": zero})
                state = mapped.place_state(state.replace(g=g))
            return mapped.step(state, batch)

        return mapped._replace(step=step)

    monkeypatch.setattr(parallel, "map_step", collapsing)
    config = digits(
        60,
        optim__g_lr=0.0,
        run__on_divergence="rollback",
        run__checkpoint_every=10,
        run__keep=9,
    )
    state = train(config, tmp_path / "run")
    assert (int(state.step), int(state.rollbacks)) == (60, 1)
    found = rows(tmp_path / "run" / "monitor.jsonl")
    assert [row["finding"] for row in found] == ["mode_collapse", "rollback"]
    # step 21 shows it, so the state of step 20 had it; 20 steps in a row say so
    assert (found[0]["since"], found[0]["step"], found[1]["since"]) == (21, 40, 10)
    aside = (tmp_path / "run" / "checkpoints" / "diverged").iterdir()
    assert {p.name for p in aside} == {"20.0", "30.0"}
