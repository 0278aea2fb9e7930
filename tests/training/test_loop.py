import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sagan.checkpoints import serialization
from sagan.checkpoints.restore import open_data
from sagan.checkpoints.workdir import claim
from sagan.config import ConfigError, from_json
from sagan.data import pipeline, validation
from sagan.runtime.signals import Stopped
from sagan.training import parallel
from sagan.training.divergence import Diverged
from sagan.training.start import _advice
from tests.support.folders import two_classes
from tests.support.runs import rows, train

ROOT = pathlib.Path(__file__).parents[2]


def lines(workdir):
    return rows(workdir / "metrics.jsonl")


def assert_identical(a, b):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    return workdir, train(tiny(data__classes=10), workdir)


def test_a_run_leaves_config_metrics_checkpoints_and_pictures(unbroken, tiny):
    workdir, state = unbroken
    assert int(state.step) == 6
    assert from_json((workdir / "config.json").read_text()) == tiny()
    assert [row["step"] for row in lines(workdir)] == [1, 2, 3, 4, 5, 6]
    images = json.loads((workdir / "data.json").read_text())["images"]
    assert [row["epoch"] for row in lines(workdir)][::5] == [16 / images, 96 / images]
    assert {"d_loss", "g_loss", "gamma/g/attention8"} <= set(lines(workdir)[0])
    looks = [row["step"] for row in lines(workdir) if "entropy/g/attention8" in row]
    assert looks == [3, 6]  # with the pictures
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["3", "6"]
    names = sorted(p.name for p in (workdir / "samples").iterdir())
    assert names == [
        f"{kind}_{step:08d}.png" for kind in ("ema", "raw") for step in (0, 3, 6)
    ]
    with Image.open(workdir / "samples" / names[0]) as picture:
        assert picture.height == 10 * (64 + 2) + 2 * 10  # a row for each class
    assert list((workdir / "tensorboard").iterdir())
    assert not (workdir / "tensorboard/plugins").exists()


def test_a_resumed_run_is_the_unbroken_run_bit_for_bit(unbroken, tiny, tmp_path):
    train(tiny(run__steps=3), tmp_path / "run")
    said = []
    traced = tiny(run__profile="3:1", run__peak_tflops=1.0)
    state = train(traced, tmp_path / "run", report=said.append)
    workdir, unbroken_state = unbroken
    assert_identical(state, unbroken_state)
    assert lines(tmp_path / "run") == lines(workdir)
    folder = tmp_path / "run/tensorboard/plugins/profile"
    assert len(list(folder.glob("*/*.xplane.pb"))) == 1
    assert f"run.profile: the trace is in {folder}" in said
    assert "saving, goodput " in said[-2] and "of the peak" in said[-2]


@pytest.mark.slow
def test_a_regularised_run_without_spectral_norm_resumes_bit_for_bit(tiny, tmp_path):
    config = partial(
        tiny,
        g__sn=False,
        d__sn=False,
        augment__policy="color,translation",
        reg__lecam=0.3,
        reg__lecam_start=2,
        run__watch_every=2,
    )
    whole = train(config(), tmp_path / "whole")
    train(config(run__steps=3), tmp_path / "run")
    assert_identical(train(config(), tmp_path / "run"), whole)
    assert whole.lecam.real != 0
    row = lines(tmp_path / "run")[-1]
    assert "reg/lecam" in row
    assert not [name for name in row if name.startswith("sigma")]


def test_few_images_are_mentioned_with_what_helps(tiny):
    (line,) = _advice(tiny(), 500)
    assert "500 images" in line
    assert "--augment.policy color,translation" in line
    (line,) = _advice(tiny(augment__policy="cutout"), 2)
    assert "only 2 images" in line
    assert not [*_advice(tiny(), 10_000)]
    assert not [*_advice(tiny(augment__policy="cutout"), 500)]


def test_a_class_of_the_run_that_vanished_is_named(tiny, tmp_path):
    root, workdir = two_classes(tmp_path / "data"), tmp_path / "run"
    folder = {"data__name": "folder", "data__path": str(root)}
    config = tiny(data__classes=3, **folder)
    claim(workdir, config, 9, ["Flags", "cat", "dog"])
    (workdir / "checkpoints" / "1").mkdir(parents=True)
    for resumed in (config, tiny(data__classes=None, **folder)):
        with pytest.raises(ConfigError) as error:
            train(resumed, workdir)
        assert str(error.value).endswith(": the class 'Flags' of the run is gone")
    with pytest.raises(ConfigError, match="'Flags' of the run is gone"):
        open_data(workdir, config)


def test_sigterm_saves_and_the_same_call_resumes(unbroken, tiny, tmp_path):
    said = []

    def stop_at_step_2(line):
        said.append(line)
        if line.startswith("step 2 of 6"):
            os.kill(os.getpid(), signal.SIGTERM)

    state = train(tiny(), tmp_path / "run", report=stop_at_step_2)
    assert int(state.step) == 2
    assert "stopped and saved at step 2" in said[-1]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_identical(train(tiny(), tmp_path / "run"), unbroken[1])


def test_a_signal_while_a_run_starts_loses_nothing(
    unbroken, tiny, tmp_path, monkeypatch
):
    workdir, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    shutil.copytree(unbroken[0], workdir)
    shutil.rmtree(checkpoints / "6")

    def terminate(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    def stopped(**options):
        with pytest.raises(Stopped, match="nothing is lost"):
            train(tiny(), workdir, **options)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert [path.name for path in checkpoints.iterdir()] == ["3"]

    for module, name in (
        (validation, "_check_records"),
        (serialization, "read"),
        (parallel, "map_step"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, terminate)
            stopped()
    stopped(evaluate=terminate)
    assert_identical(train(tiny(), workdir), unbroken[1])
    assert lines(workdir) == lines(unbroken[0])


def test_a_finished_run_stays_as_it_is(unbroken, tiny):
    workdir, state = unbroken
    assert_identical(train(tiny(), workdir), state)


def test_another_config_in_the_workdir_is_refused_field_by_field(unbroken, tiny):
    workdir, _ = unbroken
    other = tiny(optim__g_lr=1.0, data__batch=32)
    with pytest.raises(ConfigError) as error:
        train(other, workdir)
    assert "optim.g_lr: 0.0001 in the run, 1.0 now" in str(error.value)
    assert "data.batch: 16 in the run, 32 now" in str(error.value)
    assert f"--run.init-from {workdir}" in str(error.value)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_good_checkpoint(
    tiny, tmp_path, monkeypatch
):
    map_step = parallel.map_step

    def poisoned(game):
        mapped = map_step(game)

        def step(state, batch):
            if int(state.step) == 4:
                nan = jax.tree.map(lambda x: x * jnp.nan, state.d.params)
                state = state.replace(d=state.d.replace(params=nan))
            return mapped.step(state, batch)

        return mapped._replace(step=step)

    monkeypatch.setattr(parallel, "map_step", poisoned)
    with pytest.raises(Diverged, match="step 5: d_loss is nan: the discriminator"):
        train(tiny(), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["3"]
    assert lines(tmp_path / "run")[-1]["step"] == 4


@pytest.mark.slow
def test_a_checkpoint_that_is_being_written_outlives_an_error(tiny, tmp_path):
    def fail_after_step_3(line):
        if line.startswith("step 4 of"):
            raise RuntimeError("anything")

    with pytest.raises(RuntimeError, match="anything"):
        train(tiny(), tmp_path / "run", report=fail_after_step_3)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["3"]


@pytest.mark.slow
def test_an_image_that_breaks_later_loses_no_step(tiny, tmp_path, monkeypatch):
    batches = pipeline.batches

    def breaks(*args):
        stream = batches(*args)
        for _ in range(4):
            yield next(stream)
        raise ConfigError("broken.png: cannot be read")

    monkeypatch.setattr(pipeline, "batches", breaks)
    with pytest.raises(ConfigError, match="broken.png"):
        train(tiny(), tmp_path / "run")
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["3", "4"]


def test_training_imports_no_tensorflow_torch_or_clu():
    program = """
import sys
class Blocked:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "torch", "clu"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked)
from sagan.cli import main
from sagan.data import pipeline
from sagan.sampling import export
from sagan.training import loop
from sagan.config import load
pipeline.open_source(load("configs/digits.py"))
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.slow
def test_the_best_checkpoint_by_the_callers_metric_is_kept(tiny, tmp_path):
    scores = iter([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
    config = tiny(run__checkpoint_every=1, run__keep=1)
    train(
        config,
        tmp_path / "run",
        evaluate=lambda experiment: lambda state: {"metric": next(scores)},
    )
    kept = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {"2", "6"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__name": "folder", "data__path": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"data__batch": 12}, "data.batch = 12.*8 devices"),
        ({"optim__loss": "hing"}, "optim.loss = 'hing': unknown; there are hinge"),
        ({"g__block": "atention"}, "g.block = 'atention': unknown"),
        ({"data__name": "digit"}, "digit"),
        ({"data__split": "validation"}, "validation"),
        ({"data__classes": 7}, "7"),
        ({"data__size": 33}, "data.size = 33"),
    ],
)
def test_bad_input_stops_before_the_workdir_is_claimed(tiny, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        train(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_stops_with_exit_code_0_and_resumes(tiny, tmp_path, number):
    command = [sys.executable, "-u", "train.py", "configs/digits.py"]
    command += ["--workdir", str(tmp_path / "run"), "--run.log-every", "1"]
    command += ["--g.width", "8", "--d.width", "8", "--data.batch", "8"]
    with subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("step 3 of"):
                run.send_signal(number)
            if number == signal.SIGHUP and line.startswith("stopped and saved"):
                run.send_signal(number)  # a closing terminal may send it twice
        assert run.wait(120) == 0
    step = max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    again = subprocess.run(
        [*command, "--run.steps", str(step + 1)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr
    assert f"resuming from step {step}" in again.stdout
    assert "Traceback" not in again.stderr


def test_several_devices_train_out_of_the_box(unbroken):
    _, state = unbroken
    assert len(jax.devices()) == 8  # the run above was spread over all of them
    assert int(state.step) == 6
