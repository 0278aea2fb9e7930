"""SIGKILL at random moments: a short form of benchmarks/kill.py, by its own parts."""

import importlib.util
import pathlib
import sys

import pytest

PATH = pathlib.Path(__file__).parents[2] / "benchmarks" / "kill.py"


@pytest.fixture(scope="module")
def kill():
    spec = importlib.util.spec_from_file_location("kill", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kill"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["kill"]


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "devices"), [("plain", 1), ("rollback", 4)])
def test_a_killed_run_ends_as_the_unbroken_one(kill, tmp_path, setting, devices):
    run = kill.Run(setting, steps=80, devices=devices)
    aims = ["compile", "step", "save", "start", "evaluate", "save", "step"]
    unbroken = kill.run_unbroken(tmp_path, run)
    tally = kill.run_killed(tmp_path, unbroken, run, aims, seed=0)
    assert tally.wrong == []
    assert tally.died.total() == sum(tally.aimed.values()) == len(aims)
    assert tally.runs > 0 and tally.resumed >= 3


def test_what_a_kill_must_not_leave_is_told(kill, tmp_path):
    """The driver itself: it sees a line that is missing, twice there, or another."""
    lines = [f'{{"step": {s}, "d_loss": {s / 2}}}\n' for s in (1, 2, 3)]
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    (unbroken / "metrics.jsonl").write_text("".join(lines))

    class Dead:
        lines = ["step 3 of 9"]
        said = kill.Life.said
        step = kill.Life.step
        phase = kill.Life.phase

    def wrong(text):
        workdir = tmp_path / "killed"
        (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
        (workdir / "metrics.jsonl").write_text(text)
        tally = kill.Tally()
        kill.after_a_kill(Dead(), workdir, unbroken, tally)
        return len(tally.wrong)

    assert wrong("".join(lines)) == 0
    assert wrong("".join(lines[:2]) + '{"step": 3, "d_') == 0
    assert wrong(lines[0] + lines[2]) == 1
    assert wrong(lines[0] + lines[1] + lines[1]) == 1
    assert wrong(lines[0] + lines[1].replace("1.0", "1.5")) == 1
    assert wrong("".join(lines).replace("3,", '3, "images_per_s": 9,')) == 0
