import contextlib
import dataclasses
import functools
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sagan.checkpoints import restore
from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.restore import SavedRun, config_digest, weights_digest
from sagan.checkpoints.workdir import claim, read_config
from sagan.config import ConfigError, RunConfig, replace
from sagan.state import abstract, create, create_state, leaf_paths, make_game
from sagan.training import start as start_lib
from sagan.training import warm_start
from sagan.training.divergence import Finding
from sagan.training.feedback import Rollback
from sagan.training.monitor import Monitor
from sagan.training.warm_start import check_source, first_state
from tests.support.runs import silent, train

DIGITS = list("0123456789")


shapes = functools.cache(abstract)


def numbers(config, seed, low):
    """A state of random numbers in [low, low + 1), which tell where a leaf is from."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(low, low + 1, x.shape), x.dtype),
        shapes(config),
    )


def fresh(config):
    """Stands for the state of a run without a source."""
    state = numbers(dataclasses.replace(config, run=RunConfig()), config.run.seed, 3)
    zero = jnp.int32(0)
    return state.replace(step=zero, rollbacks=zero)


@pytest.fixture(autouse=True)
def compile_nothing(monkeypatch):
    monkeypatch.setattr(warm_start, "create_state", lambda game: fresh(game.config))
    monkeypatch.setattr(restore, "abstract", shapes)


def write_run(workdir, config, seeds):
    """A run with a checkpoint of random numbers for each seed, at steps 1, 2, ...."""
    claim(workdir, config, images=1797, class_names=DIGITS)
    with contextlib.closing(Checkpoints(workdir / "checkpoints", 9)) as checkpoints:
        for step, seed in enumerate(seeds, start=1):
            state = numbers(config, seed, 1).replace(step=jnp.int32(step))
            checkpoints.save(step, state)
    return workdir


@pytest.fixture(scope="module")
def source(tiny, tmp_path_factory):
    """A run at steps 1 and 2 with averages of two decays. Do not write."""
    config = tiny(ema__decays=(0.5, 0.9), run__steps=2)
    return write_run(tmp_path_factory.mktemp("source") / "run", config, seeds=(1, 2))


def load(workdir, step=None):
    state, _ = SavedRun(workdir, read_config(workdir)).load(step)
    return by_path(state)


def by_path(state):
    leaves = jax.device_get(jax.tree.leaves(state))
    return dict(zip(leaf_paths(state), leaves, strict=True))


def warm(config, workdir):
    """The first state by path, the names of the leaves of a fresh one, and lines."""
    lines = []
    config = check_source(config, workdir)
    state = by_path(first_state(make_game(config), lines.append))
    untouched = by_path(fresh(config))
    assert list(state) == list(untouched)
    new = {n for n, x in state.items() if x.tobytes() == untouched[n].tobytes()}
    return state, new, lines


COUNTERS = ("step", "rollbacks", "g/opt_state/", "d/opt_state/")
WEIGHTS, SPECTRAL = ("kernel", "bias"), ("u", "sigma")
FROM_PIXELS = ("conv1", "shortcut")
TABLES = [f"bn{i}/{name}" for i in (1, 2) for name in ("scale", "bias")]
CASES = {
    # changes of the config, and the leaves that are new
    "the same networks": ({}, set()),
    "a shorter list of attention": ({"d__attention": ()}, set()),
    "other classes": (
        {"data__classes": 7},
        {f"g/params/block1/{table}" for table in TABLES}
        | {f"ema/0/params/block1/{table}" for table in TABLES}
        | {"d/params/embed/embedding", "d/stats/spectral/embed/u"}
        | {"d/stats/spectral/embed/sigma"},
    ),
    "colour": (
        {"data__channels": 3},
        {f"{g}/out/{x}" for g in ("g/params", "ema/0/params") for x in WEIGHTS}
        | {f"g/stats/spectral/out/{x}" for x in SPECTRAL}
        | {f"d/params/block1/{conv}/{x}" for conv in FROM_PIXELS for x in WEIGHTS}
        | {f"d/stats/spectral/block1/{c}/{x}" for c in FROM_PIXELS for x in SPECTRAL},
    ),
    "another base": (
        {"data__size": 12, "g__attention": (12,), "d__attention": (6,)},
        None,
    ),
    "a wider generator": ({"g__width": 16}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_what_fits_is_the_sources_bit_for_bit_and_the_rest_is_fresh(
    tiny, source, tmp_path, case
):
    changes, expected = CASES[case]
    config = tiny(run__init_from=str(source), run__seed=1, **changes)
    state, new, _ = warm(config, tmp_path)
    there = load(source)
    for name in state:
        if name not in new:
            assert state[name].tobytes() == there[name].tobytes(), name
    counted = {name for name in state if name.startswith(COUNTERS)}
    assert counted <= new
    if expected is not None:
        assert new - counted == expected


@pytest.mark.slow
def test_new_layers_are_those_of_a_fresh_run_with_the_same_seed(
    tiny, source, tmp_path, monkeypatch
):
    monkeypatch.setattr(warm_start, "create_state", create_state)
    config = tiny(run__init_from=str(source), run__seed=1, data__channels=3)
    config = check_source(config, tmp_path)
    state = by_path(first_state(make_game(config), silent))
    same, there = by_path(create(config)), load(source)
    kernels = [name for name in state if name.endswith("/kernel") and "opt" not in name]
    new = [name for name in kernels if (state[name] != there.get(name)).any()]
    assert "d/params/block1/conv1/kernel" in new and len(new) < len(kernels) / 2
    assert all(state[name].tobytes() == same[name].tobytes() for name in new)
    optimizers = [name for name in state if "/opt_state/" in name]
    assert optimizers and not any(state[name].any() for name in optimizers)


def test_vectors_are_taken_by_runs_that_evaluate_otherwise(tiny, source, tmp_path):
    stored = {"model__sn_eval": "stored"}
    other = write_run(tmp_path / "run", tiny(**stored), seeds=(5,))
    for start, changes, missing in ((source, stored, "v"), (other, {}, None)):
        config = tiny(run__init_from=str(start), run__seed=1, **changes)
        _, new, _ = warm(config, tmp_path / "new")
        left = [name for name in new if not name.startswith(COUNTERS)]
        assert {name.rpartition("/")[2] for name in left} == {missing} - {None}


def layers(names, prefix):
    return {n.removeprefix(prefix).split("/")[0] for n in names if n.startswith(prefix)}


def test_layers_of_another_shape_are_new_as_a_whole(tiny, source, tmp_path):
    changes, _ = CASES["another base"]
    config = tiny(run__init_from=str(source), run__seed=1, **changes)
    _, new, _ = warm(config, tmp_path)
    assert layers(new, "g/params/") == {"stem", "attention12"}
    assert layers(new, "ema/0/params/") == {"stem", "attention12"}
    assert layers(new, "d/params/") == {"attention6"}
    changes, _ = CASES["a wider generator"]
    config = tiny(run__init_from=str(source), run__seed=1, **changes)
    state, new, _ = warm(config, tmp_path)
    # gamma has the same shape: without its attention's weights it means nothing
    assert "g/params/attention8/gamma" in new
    assert not [name for name in state if name.startswith("g/") and name not in new]
    assert not layers(new, "d/params/")


def test_an_average_is_of_its_decay_else_the_first_else_the_raw_weights(
    tiny, source, tmp_path
):
    config = tiny(ema__decays=(0.9, 0.7), run__init_from=str(source))
    state, _, lines = warm(config, tmp_path / "new")
    there = load(source)
    for name in state:
        if name.startswith("ema/0/"):  # 0.9
            assert (state[name] == there["ema/1/" + name[6:]]).all(), name
        elif name.startswith("ema/1/"):  # 0.7: there is only 0.5 and 0.9
            assert (state[name] == there["ema/0/" + name[6:]]).all(), name
    assert "  average 0.7: from the average 0.5" in lines
    raw = write_run(tmp_path / "raw", tiny(ema__decays=()), seeds=(3,))
    config = tiny(run__init_from=str(raw))
    state, _, lines = warm(config, tmp_path / "new")
    there = load(raw)
    averages = [name for name in state if name.startswith("ema/0/")]
    assert averages and "  average 0.5: from the raw weights" in lines
    for name in averages:
        same = name.replace("ema/0/batch_stats", "g/stats/batch_stats")
        same = same.replace("ema/0/params", "g/params")
        assert (state[name] == there[same]).all(), name


def test_both_lists_are_told_in_a_few_lines(tiny, source, tmp_path):
    config = tiny(run__init_from=str(source), data__classes=7, ema__start=5)
    _, _, lines = warm(config, tmp_path)
    assert lines == [
        f"weights of step 2 of {source.resolve()}",
        "  G: 7 of 9 layers taken: attention8, block1 (conv1, conv2, shortcut),"
        " bn_out, out, stem",
        "  G: 2 of 9 new: block1 (bn1, bn2)",
        "  D: 8 of 9 layers taken: attention4, block1, block2, logit",
        "  D: 1 of 9 new: embed",
        "  averages are copies of the weights until step ema.start = 5; --ema.start 0"
        " keeps those of the source",
    ]
    config = tiny(run__init_from=str(source))
    _, _, lines = warm(config, tmp_path)
    assert lines[1:] == ["  G: all 9 layers taken", "  D: all 9 layers taken"]


def test_new_layers_that_d_freeze_would_keep_are_named(tiny, source, tmp_path):
    config = tiny(run__init_from=str(source), data__channels=3, d__freeze=1)
    _, _, lines = warm(config, tmp_path)
    told = "  d.freeze = 1 freezes layers with random weights: block1 (conv1, shortcut)"
    assert told in lines


def test_a_step_may_be_named_and_the_digest_is_that_of_its_weights(
    tiny, source, tmp_path
):
    for step in (1, 2):
        config = check_source(tiny(run__init_from=f"{source}:{step}"), tmp_path)
        assert config.run.init_from == f"{source.resolve()}:{step}"
        state, _ = SavedRun(source, read_config(source)).load(step)
        assert config.run.init_digest == weights_digest(state)
        state = by_path(first_state(make_game(config), silent))
        same = load(source, step)["d/params/logit/kernel"]
        assert (state["d/params/logit/kernel"] == same).all()
    newest = check_source(tiny(run__init_from=str(source)), tmp_path)
    assert newest == config
    assert check_source(newest, tmp_path) == newest
    plain = tiny()
    assert check_source(plain, tmp_path) is plain
    assert config_digest(newest) != config_digest(plain)


@pytest.mark.parametrize("player", "gd")
@pytest.mark.parametrize("part", ["params", "stats"])
def test_the_digest_covers_both_networks(tiny, player, part):
    state = fresh(tiny())
    one = getattr(state, player)
    moved = jax.tree.map(lambda x: x + 1, getattr(one, part))
    other = state.replace(**{player: one.replace(**{part: moved})})
    assert weights_digest(other) != weights_digest(state)


# the start of a run


def begin(config, workdir, report=silent):
    run = start_lib.start(config, workdir, report)
    run.checkpoints.close()
    return run


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "nothing: holds no run"),
        ("source:5", "checkpoint 5: is not there; there are: 1, 2"),
        ("empty", "empty: has no checkpoint yet"),
        ("run", "is this run's own workdir"),
        ("~nobody/at/all", "at/all: holds no run"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_line_before_the_data_are_read(
    tiny, source, tmp_path, monkeypatch, name, said
):
    monkeypatch.chdir(tmp_path)
    os.symlink(source, "source")
    claim(tmp_path / "empty", tiny(), images=1, class_names=DIGITS)
    config = tiny(data__name="folder", data__path="/nowhere", run__init_from=name)
    with pytest.raises(ConfigError, match=f"^run.init_from = '{name}': .*{said}") as e:
        begin(config, tmp_path / "run")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_source_with_nothing_in_common_is_one_line(tiny, source, tmp_path):
    config = tiny(
        run__init_from=str(source), g__width=16, d__width=16, data__channels=3
    )
    said = (
        "nothing fits: no layer has the name and shape of one there; data.channels is"
        " 1 there, 3 here; g.width is 8 there, 16 here; d.width is 8 there, 16 here"
    )
    with pytest.raises(ConfigError, match=said) as error:
        begin(config, tmp_path / "run")
    assert "\n" not in str(error.value)


def test_other_weights_than_the_digest_says_are_refused(tiny, source, tmp_path):
    config = tiny(run__init_from=str(source), run__init_digest="abc")
    with pytest.raises(ConfigError, match="has other weights than run.init_digest = a"):
        begin(config, tmp_path / "run")


@pytest.fixture
def begun(tiny, source, tmp_path, monkeypatch):
    """A run begun from a source of its own, by a relative path; not yet saved."""
    shutil.copytree(source, tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    config = tiny(run__init_from="source", run__seed=1, run__on_divergence="rollback")
    return config, begin(config, tmp_path / "run")


def test_config_json_has_the_absolute_source_with_its_step_and_digest(
    begun, source, tmp_path
):
    _, run = begun
    stored = read_config(tmp_path / "run")
    assert stored == run.experiment.config
    assert stored.run.init_from == f"{(tmp_path / 'source').resolve()}:2"
    assert len(stored.run.init_digest) == 64
    expected = load(source)
    assert by_path(run.state)["ema/0/params/stem/kernel"].tobytes() == (
        expected["ema/0/params/stem/kernel"].tobytes()
    )


def save_step_1(run, workdir):
    with contextlib.closing(Checkpoints(workdir / "checkpoints", 3)) as checkpoints:
        checkpoints.save(1, run.state.replace(step=jnp.int32(1)))


def test_a_resumed_run_needs_no_source_and_remembers_it(begun, tmp_path):
    config, run = begun
    save_step_1(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "source")
    for given in ("", "source", "./run/../source", "source:2", f"{tmp_path}/source"):
        again = begin(replace(config, {"run.init_from": given}), tmp_path / "run")
        assert again.step == 1
        assert again.experiment.config == run.experiment.config
        assert read_config(tmp_path / "run") == run.experiment.config


@pytest.mark.parametrize("given", ["source:1", "elsewhere"])
def test_another_source_is_refused_when_a_run_is_resumed(begun, tmp_path, given):
    config, run = begun
    save_step_1(run, tmp_path / "run")
    with pytest.raises(ConfigError) as error:
        begin(replace(config, {"run.init_from": given}), tmp_path / "run")
    lines = str(error.value).splitlines()
    stored = run.experiment.config.run.init_from
    assert lines[1] == f"  run.init_from: '{stored}' in the run, '{given}' now"
    assert len(lines) == 3


def test_a_run_without_a_source_gets_none_when_it_is_resumed(tiny, source, tmp_path):
    save_step_1(begin(tiny(), tmp_path / "run"), tmp_path / "run")
    with pytest.raises(ConfigError, match="run.init_from: '' in the run, "):
        begin(tiny(run__init_from=str(source)), tmp_path / "run")


def go_back(begun, tmp_path, said):
    config, run = begun
    config = run.experiment.config
    monitor = Monitor(tmp_path / "run", config, run.state, active=True)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", 3)
    with contextlib.closing(checkpoints):
        run = run._replace(checkpoints=checkpoints)
        reason = Rollback(2, Finding("nonfinite", 1, "d_loss is nan"))
        return start_lib.roll_back(run, monitor, reason, said.append)


def test_a_rollback_to_before_the_first_checkpoint_is_to_the_warm_state(
    begun, source, tmp_path
):
    # of steps that the run's source makes later nothing is taken
    with contextlib.closing(Checkpoints(tmp_path / "source/checkpoints", 9)) as later:
        later.save(3, jax.tree.map(jnp.zeros_like, fresh(read_config(source))))
    save_step_1(begun[1], tmp_path / "run")
    said = []
    run = go_back(begun, tmp_path, said)
    before, after = by_path(begun[1].state), by_path(run.state)
    assert (after.pop("rollbacks"), before.pop("rollbacks")) == (1, 0)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert said[-1].endswith("back to step 0, with 0.5 of optim.d_lr")


@pytest.mark.parametrize("becomes", ["gone", "another run"])
def test_a_rollback_whose_source_is_gone_or_changed_is_one_line(
    begun, tiny, tmp_path, becomes
):
    shutil.rmtree(tmp_path / "source")
    if becomes == "another run":
        write_run(tmp_path / "source", tiny(), seeds=(7, 8))
    said = {"gone": "holds no run", "another run": "has other weights than"}[becomes]
    with pytest.raises(
        ConfigError, match=f"run.init_from = .*source:2': .*{said}"
    ) as e:
        go_back(begun, tmp_path, [])
    assert "\n" not in str(e.value)


def test_a_warm_run_trains(tiny, source, tmp_path, monkeypatch):
    monkeypatch.setattr(warm_start, "create_state", create_state)
    config = tiny(run__init_from=str(source), run__steps=1)
    said = []
    state = train(config, tmp_path / "run", report=said.append)
    assert f"weights of step 2 of {source.resolve()}" in said
    assert int(state.step) == 1
    there, after = load(source), by_path(state)
    moved = "g/params/stem/kernel"
    assert 0 < np.abs(after[moved] - there[moved]).max() < 1e-3  # Adam's first step
    averaged = after["ema/0/params/stem/kernel"]
    expected = 0.5 * there["ema/0/params/stem/kernel"] + 0.5 * after[moved]
    np.testing.assert_allclose(averaged, expected, rtol=1e-6)
