"""SIGKILL at random moments: a short form of benchmarks/kill.py, by its own parts."""

import signal
import time

import pytest

from tests.support.benchmarks import load


@pytest.fixture(scope="module")
def kill():
    return load("kill")


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


def terminate(life, inside):
    """Sends SIGTERM while `inside` holds, for which the process has to stand still."""
    begin = time.monotonic()
    while life.alive() and time.monotonic() < begin + 120:
        if inside():
            life.process.send_signal(signal.SIGSTOP)
            time.sleep(0.05)  # for the reader of its output
            held = inside()
            if held:
                life.process.send_signal(signal.SIGTERM)
            life.process.send_signal(signal.SIGCONT)
            if held:
                return
        time.sleep(0.0005)
    raise AssertionError(f"it was never there: {life.lines[-3:]}")


@pytest.mark.slow
def test_sigterm_saves_wherever_it_lands(kill, tmp_path):
    """While it prepares, compiles, evaluates, saves: then the run is the unbroken."""
    run = kill.Run(steps=80)
    unbroken = kill.run_unbroken(tmp_path / "kill", run)
    workdir = tmp_path / "run"
    checkpoints = workdir / "checkpoints"

    def prepares():
        started = life.said(r"\d+ x .* parameters: ")
        return started and not any(workdir.glob("samples/*"))

    def compiles():  # at the earliest half a second after the first pictures
        drawn = [
            path.stat().st_mtime for path in workdir.glob("samples/*_00000000.png")
        ]
        long = len(drawn) == 2 and time.time() > max(drawn) + 0.5
        return long and not life.said("first step: ")

    def evaluates():
        step = life.step()
        saved = kill.newest(checkpoints) >= step or any(checkpoints.glob(kill.TMP))
        result = workdir / "eval" / f"step_{step}" / "results.json"
        due = life.said("first step: ") and step % kill.EVALUATE == 0
        return due and not saved and not result.exists()

    def saves():
        return any(checkpoints.glob(kill.TMP))

    for inside in (prepares, compiles, evaluates, saves):
        cold = inside in (prepares, compiles)
        folder = tmp_path if inside is prepares else tmp_path / "kill"
        before = kill.newest(checkpoints)
        name = f"cold-{inside.__name__}" if cold else "warm"
        life = kill.Life(kill.command(workdir, run), folder, name)
        try:
            terminate(life, inside)
            assert life.end() == 0, life.lines
        finally:
            life.kill()
        if inside is prepares:
            stopped = life.said("stopped before the first step; nothing is lost")
            assert stopped and kill.newest(checkpoints) == before == 0, life.lines
        else:
            stopped = life.said(r"stopped and saved at step (\d+)")
            assert stopped and int(stopped[1]) == kill.newest(checkpoints) > before
        assert not [line for line in life.lines if "Traceback" in line]
    life = kill.Life(kill.command(workdir, run), tmp_path / "kill")
    assert life.end() == 0, life.lines
    tally = kill.Tally()
    kill.same_run(workdir, unbroken, tally)
    assert tally.wrong == []


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
