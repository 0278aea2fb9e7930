"""benchmarks/peer_quality.py: both sides, their turns, and what the table says."""

import numpy as np
import pytest

from sagan.config import replace
from sagan.state import abstract, count
from tests.support.benchmarks import load

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture(scope="module")
def peer():
    return load("torch_peer")


@pytest.fixture(scope="module")
def benchmark(peer):
    return load("peer_quality")


@pytest.fixture
def trainer(peer, tiny):
    def make(seed=0, **changes):
        return peer.Trainer(tiny(**changes), peer.Options(), seed)

    return make


def batches(tiny, steps):
    data, rng = tiny().data, np.random.default_rng(0)
    shape = (steps, data.batch, data.size, data.size, data.channels)
    labels = rng.integers(data.classes, size=shape[:2]).astype(np.int32)
    return zip(rng.integers(256, size=shape, dtype=np.uint8), labels, strict=True)


def same(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return {name for name, value in ours.items() if torch.equal(value, theirs[name])}


def test_the_networks_of_the_benchmark_have_as_many_parameters(benchmark, peer):
    config = replace(benchmark.make_config(0, steps=1, width=8), {"data.classes": 10})
    state = abstract(config)
    ours = count(state.g.params), count(state.d.params)
    assert peer.Trainer(config, peer.Options()).counts() == ours


@pytest.mark.slow
def test_the_peers_average_is_a_copy_until_its_start_and_then_moves(trainer, tiny):
    mine = trainer(ema__decays=(0.75,), ema__start=1)
    first, second = batches(tiny, 2)
    mine.step_on(*first)
    everything = set(mine.g.state_dict())
    assert same(mine.average.network, mine.g) == everything
    before = {k: v.clone() for k, v in mine.g.state_dict().items()}
    mine.step_on(*second)
    average, now = mine.average.network.state_dict(), mine.g.state_dict()
    for name in ("to_rgb.bias", "norm.running_mean", "norm.running_var"):
        assert not torch.equal(before[name], now[name])
        expected = 0.75 * before[name] + 0.25 * now[name]
        torch.testing.assert_close(average[name], expected)
    # u and v belong to the current weights
    assert {n for n in everything if n.endswith(("._u", "._v"))} <= same(
        mine.average.network, mine.g
    )


@pytest.mark.slow
def test_a_saved_peer_continues_as_if_it_had_not_stopped(trainer, tiny, tmp_path):
    first, *rest = batches(tiny, 3)
    going, resumed = trainer(), trainer(seed=1)
    going.step_on(*first)
    going.save(tmp_path / "checkpoint.pt")
    for batch in rest:
        going.step_on(*batch)
    resumed.load(tmp_path / "checkpoint.pt")  # and the state of torch's generator
    for batch in rest:
        resumed.step_on(*batch)
    assert resumed.steps == going.steps == 3
    for a, b in (
        (going.g, resumed.g),
        (going.d, resumed.d),
        (going.average.network, resumed.average.network),
    ):
        assert same(a, b) == set(a.state_dict())


def test_the_peer_draws_bytes_and_does_not_move(trainer, tiny):
    mine, data = trainer(), tiny().data
    before = {k: v.clone() for k, v in mine.g.state_dict().items()}
    images = mine.draw(np.zeros((3, tiny().g.z), np.float32), np.arange(3))
    assert images.shape == (3, data.size, data.size, data.channels)
    assert images.dtype == np.uint8
    assert all(torch.equal(v, before[k]) for k, v in mine.g.state_dict().items())


def test_the_seconds_to_a_distance_lie_between_two_turns(benchmark):
    distances, seconds = np.array([9.0, 5.0, 6.0, 1.0]), np.array([1.0, 2, 3, 4])
    assert benchmark.first_below(7, distances, seconds) == 1.5
    assert benchmark.first_below(5, distances, seconds) == 2
    assert benchmark.first_below(10, distances, seconds) == 1


def test_the_report_by_hand(benchmark):
    def turns(distances, seconds):
        return [
            {
                "step": 10 * i,
                "steps": 10,
                "seconds": seconds,
                "cpu": 2 * seconds,
                "evaluation": 1.0,
                "setup": 5.0,
                "fd_classifier": distance,
                "accuracy_classifier": 0.5,
            }
            for i, distance in enumerate(distances, 1)
        ]

    rows = {
        "sagan": [turns([8, 2], 4.0), turns([10, 4], 4.0)],
        "torch": [turns([8, 5], 8.0), turns([12, 5], 8.0)],
    }
    lines = list(benchmark.report(rows, 0.5))
    assert lines[2].split() == "20 3.00 ± 1.41 5.00 ± 0.00 8 16".split()
    # standard error: sqrt((2 + 0) / 2)
    assert "last step: -2.00, with a standard error of 1.00 over 2 seeds" in lines[4]
    # ours falls from 9 at 4 s to 3 at 8 s
    assert lines[5].startswith("seconds to a mean distance of 5.00: 7 and 16")
    assert "0.400 s and 0.800 s" in lines[6] and "0.50 [0.50, 0.50]" in lines[6]


@pytest.mark.slow
def test_both_sides_train_in_turn_and_no_turn_is_repeated(
    benchmark, tiny, tmp_path, monkeypatch, capsys
):
    config = tiny(run__steps=3)
    ready = benchmark.grid.prepare(config, samples=64)
    short = replace(config, {"run.steps": 2})
    benchmark.train(short, tmp_path, ready, turn=2)
    rows = benchmark.train(config, tmp_path, ready, turn=2)
    for turns in rows.values():
        assert [(row["step"], row["steps"]) for row in turns] == [(2, 2), (3, 1)]
        assert all(np.isfinite(row["fd_classifier"]) for row in turns)
    capsys.readouterr()
    monkeypatch.setattr(benchmark, "SIDES", dict.fromkeys(benchmark.SIDES))
    assert benchmark.train(config, tmp_path, ready, turn=2) == rows
    assert not capsys.readouterr().out
