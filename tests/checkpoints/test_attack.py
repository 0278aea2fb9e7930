"""A short form of benchmarks/attack.py, by its own parts."""

import random
import time

import pytest

from tests.support.benchmarks import load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def attack():
    return load("attack")


@pytest.fixture(scope="module")
def target(attack, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGAN_CACHE", "")  # the attack sets it: put it back
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as here: equal bits
        yield attack.make_target(tmp_path_factory.mktemp("attack"))


def test_damaged_files_give_no_wrong_state_and_no_traceback(attack, target):
    tally = attack.Tally()
    attack.fuzz(target, 12, random.Random(1), tally, time.monotonic() + 600)
    assert tally.wrong == [] and tally.done["fuzz"] == 12


def test_circumstances(attack, target):
    only = ("without_home", "moved_while_training")
    tally = attack.Tally()
    attack.try_odd(target, tally, only)
    assert tally.wrong == [] and tally.done["odd"] == len(only)


def test_what_an_attack_must_not_find_is_told(attack, target, monkeypatch):
    """The driver itself: a change outside, a lost file, another state, a traceback."""
    checkpoint = f"run/checkpoints/{attack.MIDDLE}/meta/metadata"

    def wrong(damage, name="table"):
        tally = attack.Tally()
        rng = random.Random(0)
        attack.attack(target, checkpoint, damage, name, rng, tally, "planted")
        return " ".join(tally.wrong)

    def nothing(path, rng, outside):
        pass

    assert wrong(nothing) == ""
    call = attack.call

    def spoiled(part):
        def call_and_spoil(*args):
            (target.folder / "copy" / part).write_text("spoiled")
            return call(*args)

        return call_and_spoil

    for part in ("outside/file", "run/checkpoints/4/meta/metadata"):
        monkeypatch.setattr(attack, "call", spoiled(part))
        assert part in wrong(nothing)
    monkeypatch.setattr(attack, "call", lambda *args: attack.Answer(None, "Trace"))
    assert "traceback" in wrong(nothing)
    monkeypatch.setattr(attack, "call", call)
    other = target._replace(state="another")
    tally = attack.Tally()
    attack.attack(other, checkpoint, nothing, "train", random.Random(0), tally, "x")
    assert any("another state" in line for line in tally.wrong)
