import contextlib
import json
import os
import pathlib
import resource
import shutil
import tempfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sagan import state as state_lib
from sagan.checkpoints import serialization
from sagan.checkpoints.manager import Checkpoints
from sagan.cli import main
from sagan.config import ConfigError, from_json


class Moments(NamedTuple):
    mu: jax.Array
    count: jax.Array
    nothing: tuple = ()


def make_state(seed=0, size=20_000):
    rng = np.random.default_rng(seed)  # random, so that no byte of it is compressed
    return {
        "step": jnp.int32(seed),
        "params": {"block_1": {"kernel": jnp.asarray(rng.random(size), jnp.float32)}},
        "opt": (Moments(jnp.ones((2, 3), jnp.bfloat16), jnp.int32(7)), None),
        "flags": jnp.array([True, False]),
        "sigma": jnp.float32(0.1) * seed,
    }


def abstract(state, sharding=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
    )


def replicated(devices):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("batch",))
    return NamedSharding(mesh, PartitionSpec())


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture
def open_(tmp_path):
    """Opens checkpoints as a new process would, after closing those before."""
    opened, notes = [], []

    def open_(keep=3, **kwargs):
        if opened:
            opened[-1].close()
        checkpoints = Checkpoints(tmp_path / "c", keep, notes.append, **kwargs)
        opened.append(checkpoints)
        return checkpoints

    open_.notes = notes
    yield open_
    opened[-1].close()


def saved(open_, *steps, **kwargs):
    checkpoints = open_(**kwargs)
    for step in steps:
        checkpoints.save(step, make_state(step))
    return open_(**kwargs)


def largest(folder):
    """The file with most of the arrays; what only Orbax reads is not among them."""
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def empty_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {
    "flipped byte": lambda folder: flip(largest(folder)),
    "truncated": lambda folder: truncate(largest(folder)),
    "zero length": lambda folder: largest(folder).write_bytes(b""),
    "missing file": lambda folder: largest(folder).unlink(),
    "missing state": lambda folder: shutil.rmtree(folder / "state"),
    "empty folder": empty_folder,
    "bad metadata": lambda folder: truncate(folder / "meta" / "metadata"),
    "list for metadata": lambda f: (f / "meta" / "metadata").write_text("[]"),
    "deep metadata": lambda f: (f / "meta" / "metadata").write_text("[" * 100_000),
    "changed metadata": lambda folder: replace_text(
        folder / "meta" / "metadata", '"memory": null', '"memory": 1'
    ),
    "data that block": lambda folder: (
        (path := largest(folder)).unlink(),
        os.mkfifo(path),
    ),
    "metadata that block": lambda folder: (
        (folder / "meta" / "metadata").unlink(),
        os.mkfifo(folder / "meta" / "metadata"),
    ),
    "another step's": lambda folder: (
        shutil.rmtree(folder),
        shutil.copytree(folder.parent / "1", folder),
    ),
}


def test_no_checkpoint_restores_to_none(open_):
    checkpoints = open_()
    assert checkpoints.restore(abstract(make_state())) is None
    assert checkpoints.steps() == []
    assert checkpoints.latest() is None
    assert checkpoints.best() is None


def test_state_survives_a_restart(open_):
    restored = saved(open_, 1, 2).restore(abstract(make_state()))
    assert restored is not None and restored[1] == 2
    assert_same(restored[0], make_state(2))
    assert open_.notes == []


def test_any_step_that_is_kept_can_be_restored(open_):
    checkpoints = saved(open_, 1, 2)
    assert_same(checkpoints.restore_step(1, abstract(make_state())), make_state(1))
    with pytest.raises(ConfigError, match="checkpoint 7: is not there.*: 1, 2"):
        checkpoints.restore_step(7, abstract(make_state()))


@pytest.mark.parametrize(("before", "after"), [(8, 2), (1, 8), (4, 1)])
def test_state_moves_to_another_number_of_devices(open_, before, after):
    checkpoints = open_()
    checkpoints.save(1, jax.device_put(make_state(1), replicated(before)))
    target = abstract(make_state(), replicated(after))
    state, _ = open_().restore(target)
    assert_same(state, make_state(1))
    assert all(x.sharding == replicated(after) for x in jax.tree.leaves(state))


def test_target_may_be_a_state(open_):
    target = jax.device_put(make_state(5), replicated(2))
    state, _ = saved(open_, 1).restore(target)
    assert_same(state, make_state(1))
    assert state["step"].sharding == replicated(2)


def test_only_the_newest_are_kept(open_):
    assert saved(open_, 1, 2, 3, 4, keep=2).steps() == [3, 4]


def test_best_and_newest_survive_a_restart(open_):
    checkpoints = open_(keep=2)
    for step, fid in enumerate([30.0, 10.0, 20.0, 40.0], start=1):
        checkpoints.save(step, make_state(step), {"metric": fid})
    checkpoints = open_(keep=2)
    assert (checkpoints.steps(), checkpoints.best()) == ([2, 3, 4], 2)
    for step in (5, 6, 7):
        checkpoints.save(step, make_state(step))
    checkpoints = open_(keep=2)
    assert (checkpoints.steps(), checkpoints.best()) == ([2, 6, 7], 2)
    checkpoints.save(8, make_state(8), {"metric": 1.0})
    checkpoints = open_(keep=2)
    assert (checkpoints.steps(), checkpoints.best()) == ([7, 8], 8)


def test_step_without_a_finite_metric_is_never_the_best(open_):
    checkpoints = open_()
    checkpoints.save(1, make_state(1), {"metric": float("nan")})
    checkpoints.save(2, make_state(2), {"other": 1.0})
    checkpoints.save(3, make_state(3))
    assert checkpoints.best() is None
    assert open_().best() is None


@pytest.mark.parametrize("damage", DAMAGE)
def test_restore_passes_over_a_damaged_checkpoint(open_, damage):
    checkpoints = saved(open_, 1, 2, 3)
    DAMAGE[damage](checkpoints.directory / "3")
    checkpoints = open_()
    state, step = checkpoints.restore(abstract(make_state()))
    assert step == 2
    assert_same(state, make_state(2))
    assert len(open_.notes) == 1 and "checkpoint 3" in open_.notes[0]
    assert checkpoints.steps() == [1, 2]
    assert (checkpoints.directory / "bad" / "3.0").is_dir()

    checkpoints.save(3, make_state(3))
    state, step = open_().restore(abstract(make_state()))
    assert step == 3
    assert_same(state, make_state(3))


def test_damage_to_what_only_orbax_reads_costs_nothing(open_):
    checkpoints = saved(open_, 1, 2)
    (checkpoints.directory / "2" / "_CHECKPOINT_METADATA").write_text("[]")
    reader = open_(read_only=True)  # Orbax alone stops here
    assert reader.restore(abstract(make_state()))[1] == 2
    checkpoints = open_()  # and here
    state, step = checkpoints.restore(abstract(make_state()))
    assert (step, open_.notes) == (2, [])
    assert_same(state, make_state(2))
    assert checkpoints.save(3, make_state(3))


@pytest.mark.parametrize("damage", [flip, truncate, pathlib.Path.unlink])
def test_no_damaged_file_gives_a_wrong_state(open_, tmp_path, damage):
    checkpoints = saved(open_, 1, 2)
    whole = tmp_path / "whole"
    shutil.copytree(checkpoints.directory, whole)
    files = [p.relative_to(whole) for p in (whole / "2").rglob("*") if p.is_file()]
    for file in files:
        shutil.rmtree(checkpoints.directory)
        shutil.copytree(whole, checkpoints.directory)
        damage(checkpoints.directory / file)
        checkpoints = open_()
        state, step = checkpoints.restore(abstract(make_state()))
        assert_same(state, make_state(step))
        checkpoints.save(3, make_state(3))
        checkpoints.wait()


def test_damage_done_twice_to_a_step_is_set_aside_twice(open_):
    checkpoints = saved(open_, 1, 2)
    for _ in range(2):
        flip(largest(checkpoints.directory / "2"))
        checkpoints.restore(abstract(make_state()))
        checkpoints.save(2, make_state(2))
        checkpoints.wait()
    aside = sorted(path.name for path in (checkpoints.directory / "bad").iterdir())
    assert aside == ["2.0", "2.1"]


@pytest.fixture
def metadata(open_):
    """The metadata of checkpoint 1, with metric 30; 2 has metric 20."""
    checkpoints = open_()
    for step, fid in ((1, 30.0), (2, 20.0)):
        checkpoints.save(step, make_state(step), {"metric": fid})
    checkpoints.wait()
    return checkpoints.directory / "1" / "meta" / "metadata"


def test_a_metric_that_was_changed_makes_no_checkpoint_the_best(open_, metadata):
    replace_text(metadata, '"metric": 30.0', '"metric": 10.0')
    assert open_().best() == 2


def test_what_is_saved_with_a_state_is_read_as_it_was(open_):
    checkpoints, memory = open_(), {"past": {"a": [0.1, 1e-30]}, "streaks": {}}
    checkpoints.save(1, make_state(1), memory=memory)
    checkpoints.save(2, make_state(2))
    checkpoints = open_()
    assert checkpoints.memory(1) == memory
    assert checkpoints.memory(2) is None


def test_checkpoints_of_stops_push_no_regular_one_out_and_are_gone_back_behind(open_):
    checkpoints = open_(keep=2, every=10)
    for step in (10, 20, 30, 34, 36, 40, 43):
        checkpoints.save(step, make_state(step))
    assert open_(keep=2, every=10).steps() == [30, 40, 43]
    checkpoints = open_(keep=2, every=10)
    checkpoints.set_aside_from(45)
    assert checkpoints.steps() == [30, 40]
    checkpoints.save(44, make_state(44))
    checkpoints.set_aside_from(40)
    assert checkpoints.steps() == [30]


def test_checkpoints_of_stops_are_kept_as_others_are(open_):
    checkpoints = open_(keep=3, every=1000)
    for step in (300, 700, 900, 950):
        checkpoints.save(step, make_state(step))
    assert open_(keep=3, every=1000).steps() == [700, 900, 950]


def test_checkpoints_stay_regular_if_the_interval_changes(open_):
    checkpoints = open_(keep=3, every=10)
    for step in (20, 30, 40):
        checkpoints.save(step, make_state(step))
    checkpoints = open_(keep=3, every=25)
    checkpoints.save(47, make_state(47))
    checkpoints = open_(keep=3, every=25)
    assert checkpoints.steps() == [20, 30, 40, 47]
    checkpoints.set_aside_from(47)
    assert checkpoints.steps() == [20, 30, 40]


def test_metadata_without_their_checksum_are_damaged(open_, metadata):
    path = metadata
    meta = json.loads(path.read_text())
    del meta["own_crc32"]
    path.write_text(json.dumps(meta | {"metrics": {"metric": 1.0}}))
    assert open_().best() == 2
    del meta["memory"], meta["regular"]  # as 0.1 wrote it
    path.write_text(json.dumps(meta))
    assert_same(open_().restore_step(1, abstract(make_state())), make_state(1))


@pytest.fixture
def others_folder():
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


@pytest.mark.parametrize("name", ["meta", "meta/metadata", "state", "state/d", "array"])
@pytest.mark.parametrize("step", [1, 2])
def test_what_may_not_be_read_is_not_damaged(others_folder, name, step):
    checkpoints = Checkpoints(others_folder / "c", 3)
    for each in (1, 2):
        checkpoints.save(each, make_state(each), {"metric": 1.0})
    checkpoints.close()
    folder = others_folder / "c" / str(step)
    path = largest(folder) if name == "array" else folder / name
    needed = step == 2 or name.startswith("meta")  # all metadata have a metric
    stops = pytest.raises(PermissionError, match=f"cannot be read: Perm.*{folder}")
    told, me = [], os.geteuid()
    path.chmod(0)
    try:
        os.seteuid(me or 65534)  # root reads everything
        with stops if needed else contextlib.nullcontext():
            opened = Checkpoints(others_folder / "c", 3, told.append, read_only=True)
            assert opened.restore(abstract(make_state()))[1] == 2
    finally:
        os.seteuid(me)
        path.chmod(0o700)
    assert told == []


def test_a_disk_that_cannot_be_read_is_not_a_damaged_checkpoint(open_, monkeypatch):
    checkpoints = saved(open_, 1, 2)

    def fail(folder):
        raise ValueError("INTERNAL: Error reading [os_error_code='5'] [domain='x']")

    monkeypatch.setattr(serialization, "_read_arrays", fail)
    with pytest.raises(OSError, match="cannot be read: Input/output error: .*/2'"):
        checkpoints.restore(abstract(make_state()))
    assert checkpoints.steps() == [1, 2] and open_.notes == []


@pytest.mark.parametrize("link", ["c", "c/bad", "c/1"])
def test_a_link_that_leads_out_of_the_workdir_is_refused(open_, tmp_path, link):
    (tmp_path / "out").mkdir()
    if link == "c":
        (tmp_path / "c").symlink_to(tmp_path / "out")
        with pytest.raises(ConfigError, match="/c: is a symbolic link"):
            Checkpoints(tmp_path / "c", 3)
        (tmp_path / "c").unlink()
    checkpoints = saved(open_, 1, 2)
    if link == "c/bad":
        (tmp_path / "c" / "bad").symlink_to(tmp_path / "out")
        flip(largest(checkpoints.directory / "2"))
        with pytest.raises(ConfigError, match="/bad: is a symbolic link"):
            checkpoints.restore(abstract(make_state()))
    if link == "c/1":
        shutil.rmtree(tmp_path / "c" / "1")
        (tmp_path / "c" / "1").symlink_to(tmp_path / "out")
        with pytest.raises(ConfigError, match="/1: is a symbolic link"):
            open_()
    assert not any((tmp_path / "out").iterdir())


def test_damage_to_an_older_checkpoint_is_left_alone(open_):
    checkpoints = saved(open_, 1, 2)
    DAMAGE["bad metadata"](checkpoints.directory / "1")
    checkpoints = open_()
    _, step = checkpoints.restore(abstract(make_state()))
    assert (step, checkpoints.steps(), open_.notes) == (2, [1, 2], [])


def test_nothing_good_is_an_error_and_stays_one(open_):
    checkpoints = saved(open_, 1, 2)
    for step in ("1", "2"):
        flip(largest(checkpoints.directory / step))
    for _ in range(2):
        checkpoints = open_()
        with pytest.raises(ConfigError, match="no checkpoint is good"):
            checkpoints.restore(abstract(make_state()))
        assert checkpoints.steps() == [1, 2]


def test_only_checkpoints_set_aside_are_an_error(open_):
    checkpoints = saved(open_, 1)
    (checkpoints.directory / "bad").mkdir()
    (checkpoints.directory / "1").rename(checkpoints.directory / "bad" / "1.0")
    with pytest.raises(ConfigError, match="no checkpoint is good"):
        open_().restore(abstract(make_state()))


def test_another_model_is_an_error_and_sets_nothing_aside(open_):
    checkpoints = saved(open_, 1)
    target = abstract(make_state(size=10) | {"more": jnp.ones(3)})
    with pytest.raises(ConfigError, match="another model") as error:
        checkpoints.restore(target)
    assert "kernel: float32 (20000,) there, float32 (10,) wanted" in str(error.value)
    assert "more: nothing there, float32 (3,) wanted" in str(error.value)
    assert checkpoints.steps() == [1]


def test_reader_changes_nothing(open_):
    checkpoints = saved(open_, 1, 2)
    flip(largest(checkpoints.directory / "2"))
    open_(read_only=True)  # closes the writer, which tidies up in the background
    unfinished = checkpoints.directory / "3.orbax-checkpoint-tmp"
    unfinished.mkdir()
    before = sorted(checkpoints.directory.rglob("*"))
    _, step = open_(read_only=True).restore(abstract(make_state()))
    assert step == 1 and len(open_.notes) == 1
    assert sorted(checkpoints.directory.rglob("*")) == before


def test_a_reader_sees_checkpoints_that_were_saved_after_it_was_opened(tmp_path):
    writer = Checkpoints(tmp_path / "c", 2)
    writer.save(1, make_state(1))
    writer.wait()
    reader = Checkpoints(tmp_path / "c", 2, read_only=True)
    assert reader.steps() == [1]
    for step in (2, 3, 4):
        writer.save(step, make_state(step))
    writer.close()
    assert reader.steps() == [3, 4]
    state, step = reader.restore(abstract(make_state()))
    assert step == 4
    assert_same(state, make_state(4))
    reader.close()


def test_start_removes_what_a_killed_process_left(open_):
    unfinished = saved(open_, 1).directory / "9.orbax-checkpoint-tmp"
    unfinished.mkdir()
    checkpoints = open_()
    checkpoints.save(2, make_state(2))
    checkpoints.wait()
    assert not unfinished.exists()
    assert checkpoints.steps() == [1, 2]


def test_state_may_be_donated_while_it_is_written(open_):
    overwrite = jax.jit(
        lambda state: jax.tree.map(lambda x: x * 0, state), donate_argnums=0
    )
    checkpoints = open_()
    for step in range(1, 4):
        state = jax.device_put(make_state(step, 200_000), replicated(2))
        checkpoints.save(step, state)
        jax.block_until_ready(overwrite(state))
    checkpoints = open_()
    for step in range(1, 4):
        target = abstract(make_state(size=200_000))
        assert_same(checkpoints.restore_step(step, target), make_state(step, 200_000))


def test_restored_state_may_be_donated(open_):
    checkpoints = saved(open_, 1)
    state, _ = checkpoints.restore(abstract(make_state(), replicated(2)))
    double = jax.jit(lambda s: jax.tree.map(lambda x: x + x, s), donate_argnums=0)
    assert_same(double(state), jax.tree.map(lambda x: x + x, make_state(1)))
    assert_same(checkpoints.restore_step(1, abstract(make_state())), make_state(1))


def test_step_is_saved_once_and_steps_rise(open_):
    checkpoints = saved(open_, 2)
    assert not checkpoints.save(2, make_state(2))
    with pytest.raises(ValueError, match="newer one, 2"):
        checkpoints.save(1, make_state(1))
    assert checkpoints.save(3, make_state(3))


def test_full_disk_names_the_step_and_spares_the_older(open_):
    checkpoints = saved(open_, 1, keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # fails like no space
    try:
        checkpoints.save(2, make_state(2, 1_000_000))
        with pytest.raises(OSError, match="checkpoint 2 was not written.*untouched: 1"):
            checkpoints.save(3, make_state(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    state, step = open_().restore(abstract(make_state()))
    assert step == 1
    assert_same(state, make_state(1))


def test_orbax_says_nothing(open_, capfd, caplog):
    checkpoints = saved(open_, 1, 2, 3, keep=1)
    truncate(largest(checkpoints.directory / "3"))
    with pytest.raises(ConfigError):
        open_(keep=1).restore(abstract(make_state()))
    open_(read_only=True)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


# The state of a run: finished_run has the checkpoints 1 and 2.

PARTS = ["step"] + [
    f"{player}/{part}"
    for player in ("g", "d")
    for part in ("params", "stats/spectral", "opt_state/0/mu", "opt_state/0/nu")
]
PARTS += ["g/stats/batch_stats", "ema/0/params", "ema/1/batch_stats"]


def run_state(workdir):
    """Of a finished_run, and its config."""
    config = from_json((workdir / "config.json").read_text())
    checkpoints = Checkpoints(workdir / "checkpoints", 2, read_only=True)
    return checkpoints.restore_step(2, state_lib.abstract(config)), config


def test_one_bit_of_any_array_of_a_run_changes_the_checksum(finished_run):
    arrays = serialization.take(run_state(finished_run)[0])
    for part in PARTS:
        assert any(name.startswith(part) for name in arrays), part
    whole = serialization._crc32(arrays)
    for i, (name, array) in enumerate(arrays.items()):
        raw = bytearray(array.tobytes())
        raw[(7 * i) % len(raw)] ^= 1 << i % 8
        other = np.frombuffer(raw, array.dtype).reshape(array.shape)
        assert serialization._crc32({**arrays, name: other}) != whole, name
    names = list(arrays)
    for name in names[:-1]:
        rest = {n: x for n, x in arrays.items() if n != name}
        assert serialization._crc32(rest) != whole, f"without {name}"


@pytest.fixture
def copy_of_run(finished_run, tmp_path):
    return pathlib.Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def target(finished_run):
    return run_state(finished_run)[0]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    copy_of_run, target, damage
):
    folder = copy_of_run / "checkpoints"
    DAMAGE[damage](folder / "2")
    damaged = {p.name: p.is_file() and p.read_bytes() for p in folder.rglob("2/**/*")}
    said = []
    checkpoints = Checkpoints(folder, 2, said.append)
    state, step = checkpoints.restore(target)
    checkpoints.close()
    assert step == int(state.step) == 1
    assert jax.tree.structure(state) == jax.tree.structure(target)
    assert [line.partition(": ")[0] for line in said] == ["checkpoint 2 is passed over"]
    aside = folder / "bad" / "2.0"  # whole, as it was found
    found = {p.name: p.is_file() and p.read_bytes() for p in aside.rglob("*")}
    assert found == damaged


def test_the_command_ends_where_no_checkpoint_is_good(copy_of_run, tmp_path, capfd):
    for folder in (copy_of_run / "checkpoints").iterdir():
        flip(largest(folder))
    config = tmp_path / "config.py"
    config.write_text(f"""
import pathlib
from sagan.config import from_json
def config():
    return from_json(pathlib.Path({str(copy_of_run)!r}, "config.json").read_text())
""")
    files = {p: p.read_bytes() for p in copy_of_run.rglob("*") if p.is_file()}
    args = [str(config), "--workdir", str(copy_of_run), "--run.steps", "9"]
    assert main.run(main.train_command, args) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and "no checkpoint is good" in error
    assert len(error.splitlines()) == 1
    for name in ("config.json", "data.json"):  # run.steps is another now
        del files[copy_of_run / name]
    assert all(path.read_bytes() == data for path, data in files.items())
