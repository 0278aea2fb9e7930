import pathlib
import re
import threading
import time
import types

import jax
import pytest

from sagan.training import cost, profiling, timing


@pytest.fixture
def now(monkeypatch):
    """A clock that only the test moves: seconds since the process began, and 1970."""

    class Now:
        monotonic, unix = 100.0, 1e9

        def passes(self, seconds):
            self.monotonic += seconds
            self.unix += seconds

    now = Now()
    monkeypatch.setattr(time, "perf_counter", lambda: now.monotonic)
    monkeypatch.setattr(time, "time", lambda: now.unix)
    return now


def spend(clocks, now, what, seconds):
    with clocks.spent(what):
        now.passes(seconds)


def wait_for_data(clocks, now, seconds, running=None):
    def batches():
        time.sleep(0.2)  # for the thread that looks at the devices
        now.passes(seconds)
        yield "batch"

    assert clocks.next_batch(batches(), running) == "batch"


def first_start(config, now):
    """40 s of compiling, then 10 steps in 20 s, of which 5 s are spent otherwise."""
    clocks = timing.Clocks(config, {})
    now.passes(40)
    assert clocks.first(1, ()) == 40
    wait_for_data(clocks, now, 2)
    spend(clocks, now, "save", 3)
    now.passes(15)
    return clocks, clocks.read(11)


def test_rates_and_goodput_are_those_of_a_run_by_hand(tiny, now):
    clocks, row = first_start(tiny(optim__d_steps=2), now)
    assert row.pop("memory/peak_gib") == pytest.approx(timing.peak_memory() / 2**30)
    assert row == {
        "images_per_s": 10 * 2 * 16 / 20,
        "time/data_wait_s": 2,
        "time/save_s": 3,
        "time/unix_s": 1e9 + 60,
        "time/elapsed_s": 60,
        "time/goodput": 15 / 60,
    }
    spend(clocks, now, "other", 10)
    now.passes(10)
    row = clocks.read(21)
    assert (row["time/data_wait_s"], row["time/goodput"]) == (0, 25 / 80)
    said = clocks.summary()
    assert said == "time: 01:20 in this start, 2.0 s of it waiting for data, " + (
        "3.0 s saving, goodput 31%"
    )


def test_waiting_for_data_counts_once_the_devices_have_nothing_to_do(
    tiny, now, monkeypatch
):
    clocks, _ = first_start(tiny(), now)
    idle, busy = threading.Event(), threading.Event()
    monkeypatch.setattr(jax, "block_until_ready", lambda event: event.wait(20))
    wait_for_data(clocks, now, 5, busy)  # the step goes on: nothing was lost
    busy.set()

    def batches():
        now.passes(3)  # these seconds the devices still work
        idle.set()
        time.sleep(0.2)
        now.passes(4)
        yield "batch"

    clocks.next_batch(batches(), idle)
    assert clocks.read(21)["time/data_wait_s"] == 4


def test_a_restart_goes_on_with_the_time_that_counts(tiny, now):
    _, row = first_start(tiny(), now)
    now.passes(100)  # steps that are lost, and a machine that is away
    clocks = timing.Clocks(tiny(), {"step": 11, **row})
    clocks.first(12, ())
    now.passes(40)
    row = clocks.read(22)
    assert row["time/elapsed_s"] == 200
    assert row["time/goodput"] == pytest.approx((15 + 40) / 200)


@pytest.mark.parametrize("value", ["nan", None, float("inf"), -1.0, True])
@pytest.mark.parametrize("name", ["unix_s", "elapsed_s", "goodput"])
def test_a_line_without_usable_times_begins_anew(tiny, now, name, value):
    _, row = first_start(tiny(), now)
    clocks = timing.Clocks(tiny(), row | {f"time/{name}": value})
    clocks.first(12, ())
    now.passes(10)
    assert clocks.read(13)["time/goodput"] == 1


def test_a_clock_that_is_set_back_gives_no_goodput_above_one(tiny, now):
    clocks, _ = first_start(tiny(), now)
    now.passes(10)
    now.unix -= 1e6
    row = clocks.read(12)
    assert row["time/goodput"] == 1 and row["time/elapsed_s"] == 25


def test_the_share_of_the_peak_counts_the_time_of_steps_on_all_devices(tiny, now):
    config = tiny(run__peak_tflops=2.0)
    _, row = first_start(config, now)
    devices = len(jax.devices())
    expected = 10 * cost.formula_flops(config) / (15 * 2e12 * devices)
    assert row["time/peak_share"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v2", 22.5),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5e", 197),
        ("TPU v5p", 459),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 0),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("cpu", 0),
    ],
)
def test_peaks_are_known_by_the_name_of_the_device(tiny, monkeypatch, kind, peak):
    device = type("Device", (), {"device_kind": kind})
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert timing.peak_tflops(tiny()) == peak
    assert timing.peak_tflops(tiny(run__peak_tflops=7.0)) == 7


def test_a_trace_begins_after_the_step_that_compiles(tiny, tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(
        jax.profiler, "start_trace", lambda *a, **k: events.append("start")
    )
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("stop"))

    def steps(first, last, profile):
        events.clear()
        config = tiny(run__profile=profile)
        profiler = profiling.Profiler(
            tmp_path, config, first, lambda line: None, active=True
        )
        for step in range(first, last):
            profiler.at(step, ())
            events.append(step + 1)
        profiler.close()
        return list(events)

    assert steps(0, 5, "2:2") == [1, 2, "start", 3, 4, "stop", 5]
    assert steps(2, 6, "2:2") == [3, "start", 4, 5, "stop", 6]
    assert steps(0, 2, "0:3") == [1, "start", 2, "stop"]
    assert steps(3, 6, "2:2") == [4, 5, 6]
    assert steps(0, 2, "") == [1, 2]


def test_a_trace_that_cannot_be_written_is_told(tiny, tmp_path):
    (tmp_path / "tensorboard").write_text("")
    said = []
    config = tiny(run__profile="0:1")
    profiler = profiling.Profiler(tmp_path, config, 0, said.append, active=True)
    for step in range(4):
        profiler.at(step, ())
    assert len(said) == 1 and said[0].startswith("run.profile: no trace: ")


def test_peak_memory_is_that_of_the_fullest_device_or_of_the_process(monkeypatch):
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
        assert timing.peak_memory() == pytest.approx(peak, rel=0.05)
    full = [
        types.SimpleNamespace(memory_stats=lambda n=n: n)
        for n in ({"peak_bytes_in_use": 5}, {"peak_bytes_in_use": 7}, {}, None)
    ]
    monkeypatch.setattr(timing.jax, "local_devices", lambda: full)
    assert timing.peak_memory() == 7
