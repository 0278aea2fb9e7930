"""The command on a card repeats its evaluation, in any folder."""

import dataclasses
import shlex
import shutil

import numpy as np
import pytest

from sagan.checkpoints.restore import open_saved
from sagan.cli import evaluate as commands
from sagan.cli.arguments import OPTIONS, parse
from sagan.evaluation import image_folders, results, run, scoring
from sagan.evaluation.protocol import Comparison, Protocol
from sagan.metrics.features import of_callable


def features(image):
    return image.reshape(len(image), -1)[:, ::7].astype(np.float32)


def quiet(line):
    del line


@pytest.fixture(autouse=True)
def quick_features(monkeypatch):
    network = of_callable(features, "quick", digest="always")
    monkeypatch.setattr(scoring, "open_network", lambda *_: network)


def parsed(command):
    """The options of a command, as of one that is typed into a shell."""
    program, name, *args = shlex.split(command)
    assert program == "sagan" and hasattr(commands, f"{name}_command")
    return parse(OPTIONS[name](), args, "sagan")


def test_of_a_run(finished_run, tmp_path, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "a run")
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "open_saved", lambda workdir, _: open_saved(workdir))
    moments = {"mu": np.zeros(10), "sigma": np.eye(10)}
    np.savez("the reals.npz", **moments)
    place = tmp_path / "the reals.npz"
    relative = place.relative_to(tmp_path)
    protocol = Protocol(metrics="fid", samples=20, weights="raw", batch_norm="moving")
    protocol = dataclasses.replace(protocol, reference=relative)
    workdir = (tmp_path / "a run").relative_to(tmp_path)
    (result,) = run.evaluate_run(
        workdir, protocol, again=True, data_path="data", report=quiet
    )
    options = parsed(result["made"]["command"])
    assert options.workdir == tmp_path / "a run" and options.step == "2"
    assert options.again and options.data_path == str(tmp_path / "data")
    assert options.protocol == dataclasses.replace(protocol, reference=place)


@pytest.mark.parametrize("real", ["the reals.npz", "digits:train"])
def test_of_images_from_anywhere(tmp_path, monkeypatch, real):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    np.savez("fakes; of mine.npz", image=image)
    np.savez("the reals.npz", image=image)
    fake = (tmp_path / "fakes; of mine.npz").relative_to(tmp_path)
    protocol = Comparison(metrics="fid", reals=60)
    out = (tmp_path / "out").relative_to(tmp_path)
    result = image_folders.compare(fake, real, protocol, out=out, report=quiet)
    options = parsed(result["made"]["command"])
    assert options.fake == tmp_path / fake and options.out == tmp_path / "out"
    there = real.endswith(".npz")
    assert options.real == (str(tmp_path / real) if there else real)
    assert options.protocol == protocol and options.data_path == ""


@pytest.mark.slow
def test_again_starts_the_seconds_and_notes_anew(finished_run, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    protocol = Protocol(metrics="fid", samples=20, weights="raw")
    run.evaluate_run(workdir, protocol, report=quiet)
    path = workdir / "eval" / "step_2" / "results.json"
    result = results.read_result(path)
    assert result is not None
    result["made"]["seconds"], result["notes"] = 1e6, ["of another time"]
    path.write_text(results.to_json(result))
    (kept,) = run.evaluate_run(workdir, protocol, report=quiet)
    assert kept["made"]["seconds"] == 1e6 and kept["notes"] == ["of another time"]
    (redone,) = run.evaluate_run(workdir, protocol, again=True, report=quiet)
    assert redone["made"]["seconds"] < 1e6
    assert "of another time" not in redone["notes"]
