"""What a run says while it trains."""

import io
import sys
import time

import pytest

from sagan.training import feedback, timing
from sagan.training import progress as progress_lib


class Clocks(timing.Clocks):
    def __init__(self):
        pass

    def first(self, step, state):
        return 17.6

    def read(self, step):
        return {"images_per_s": 64.0}


class Feedback(feedback.Feedback):
    def __init__(self):
        pass

    latest = {"d_loss": 1.25, "g_loss": 0.5, "lr/d": 0.1}

    def flush(self):
        return None


@pytest.fixture
def begin(tmp_path, monkeypatch, tiny):
    monkeypatch.setenv("SAGAN_CACHE", str(tmp_path))
    made = []

    def make(told, **changes):
        config = tiny(**{"run__log_every": 2, **changes})
        made.append(progress_lib.Progress(config, 0, Feedback(), Clocks(), told.append))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_next_start_knows_how_long_the_first_step_took(begin):
    told = []
    assert begin(told).rates(1, ()) == {}
    assert told == ["compiling the step", "first step: 18 s, compiling included"]
    begin(told, run__steps=9)  # the same program
    begin(told, g__width=16)
    assert told[2:] == [
        "compiling the step (18 s the last time here)",
        "compiling the step",
    ]


def test_a_time_that_cannot_be_kept_is_no_matter(begin, monkeypatch):
    monkeypatch.setenv("SAGAN_CACHE", "/dev/null/x")
    told = []
    begin(told).rates(1, ())
    begin(told)
    assert told[-1] == "compiling the step"


def test_a_logged_step_has_rates_and_a_line(begin):
    told = []
    progress = begin(told)
    rates = [progress.rates(step, ()) for step in (1, 2, 3, 4)]
    assert rates[0] == rates[2] == {}
    assert rates[3] == {"images_per_s": 64.0}
    progress.show(4, rates[3])
    assert told[-1] == "step 4 of 6: d_loss 1.250, g_loss 0.500, images_per_s 64"


def test_on_a_terminal_a_clock_runs_while_the_step_is_compiled(begin, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = begin([])
    time.sleep(2.5)
    progress.rates(1, ())
    assert "compiling, 2 s" in terminal.getvalue()
    assert not progress._ticking.is_alive()
    progress.show(2, progress.rates(2, ()))
    progress.show(3, progress.rates(3, ()))
    assert "images_per_s=64" in progress._bar.postfix
