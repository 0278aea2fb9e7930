"""Where the time of a run goes: the clocks of training."""

from __future__ import annotations

import contextlib
import math
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar, final

import jax
from tqdm import tqdm

from sagan.config.schema import Config
from sagan.training import cost

T = TypeVar("T")

# TFLOP/s of one device in bf16 (V100, T4: fp16) without sparsity, by JAX's name for it.
# Sources: Google's page of each TPU (of v2 and v3 half a chip), NVIDIA's data sheets.
PEAK_TFLOPS = {
    r"TPU v2": 22.5,
    r"TPU v3": 61.5,
    r"TPU v4": 275.0,
    r"TPU v5 ?(lite|e)": 197.0,
    r"TPU v5p?": 459.0,
    r"TPU v6 ?(lite|e)": 918.0,
    r".*\bV100": 125.0,
    r".*\bT4": 65.0,
    r".*\bL4": 121.0,
    r".*\bA100": 312.0,
    r".*\bH100 PCIe": 756.0,
    r".*\b(H100|H200)": 989.0,
}


def peak_tflops(config: Config) -> float:
    """run.peak_tflops, or what is known of the devices; 0 if that is nothing."""
    kind = jax.devices()[0].device_kind
    found = (PEAK_TFLOPS[name] for name in PEAK_TFLOPS if re.match(name + r"\b", kind))
    return config.run.peak_tflops or next(found, 0.0)


def peak_memory() -> int:
    """Most bytes so far of this machine's fullest device; of the process, on CPUs."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if peak := max(one.get("peak_bytes_in_use", 0) for one in stats):
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@final
class Clocks:
    """Measures the steps, and what keeps a run from them, in one start of it.

    Goodput is the time in steps that count over the time since the run first began. The
    rest is starts, compiling, waiting for data, saving, pictures, evaluations, steps
    that had to be repeated, and the time in which nothing ran.
    """

    def __init__(self, config: Config, before: Mapping[str, Any]):
        """Goes on from `before`, the last line of metrics.jsonl that still counts."""
        self._config = config
        self._start, now = time.perf_counter(), time.time()
        self._began, self._useful = _earlier(before) or (now, 0.0)
        self._lap: tuple[int, float] | None = None  # last measured step, and when
        self._spent: dict[str, float] = {}  # seconds since then
        self._totals: dict[str, float] = {}  # of this start
        self._latest: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(1, "clocks")
        peak = peak_tflops(config) * 1e12 * len(jax.devices())
        self._of_peak = cost.formula_flops(config) / peak if peak else 0.0

    @contextlib.contextmanager
    def spent(self, what: Literal["save", "other"]) -> Iterator[None]:
        """Measures something that training waits for."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._add(what, time.perf_counter() - begin)

    def next_batch(self, batches: Iterator[T], running: Any) -> T:
        """The next batch; the devices' time without work meanwhile is data_wait.

        Args:
          batches: Where it comes from.
          running: An output of the step that they may still compute; None: of none.
        """
        begin = time.perf_counter()
        ended = self._pool.submit(_ready_at, running)
        batch = next(batches)
        if ended.done():  # else they are still busy
            self._add("data_wait", time.perf_counter() - max(begin, ended.result()))
        return batch

    def first(self, step: int, state: Any) -> float:
        """Waits for the first step of this start; returns the seconds up to there."""
        jax.block_until_ready(state)
        self._lap, self._spent = (step, time.perf_counter()), {}
        return self._lap[1] - self._start

    def read(self, step: int) -> dict[str, float]:
        """Rates and times since the step that was read before this one.

        Returns:
          images_per_s: Real images a second, all included.
          memory/peak_gib: See peak_memory.
          time/data_wait_s, time/save_s: Seconds without work for the devices because
            there was no batch, or a checkpoint was saved.
          time/unix_s, time/elapsed_s: Now, and since the run first began.
          time/goodput: See the class.
          time/peak_share: FLOPs of the steps, by counting products, over those that the
            devices could do in the time of the steps; only if their peak is known.
        """
        assert self._lap is not None
        (before, then), now = self._lap, time.perf_counter()
        steps, span = step - before, now - then
        useful = max(span - sum(self._spent.values()), 0.0)
        self._useful += useful
        # at least what was useful: the machine's clock may have been set back
        elapsed = max(time.time() - self._began, self._useful)
        images = steps * self._config.optim.d_steps * self._config.data.batch
        self._latest = {
            "images_per_s": images / span,
            "memory/peak_gib": peak_memory() / 2**30,
            "time/data_wait_s": self._spent.get("data_wait", 0.0),
            "time/save_s": self._spent.get("save", 0.0),
            "time/unix_s": time.time(),
            "time/elapsed_s": elapsed,
            "time/goodput": self._useful / elapsed,
        }
        if self._of_peak and useful:
            self._latest["time/peak_share"] = steps * self._of_peak / useful
        self._lap, self._spent = (step, now), {}
        return self._latest

    def _add(self, what: str, seconds: float) -> None:
        for sums in (self._spent, self._totals):
            sums[what] = sums.get(what, 0.0) + seconds

    def summary(self) -> str | None:
        """A line for the end of this start; None if too little was measured."""
        if not self._latest:
            return None
        totals = {"data_wait": 0.0, "save": 0.0, **self._totals}
        words = [
            f"time: {_duration(time.perf_counter() - self._start)} in this start",
            f"{_duration(totals['data_wait'])} of it waiting for data",
            f"{_duration(totals['save'])} saving",
            f"goodput {self._latest['time/goodput']:.0%}",
        ]
        if "time/peak_share" in self._latest:
            words.append(f"{self._latest['time/peak_share']:.0%} of the peak")
        return ", ".join(words)


def _ready_at(running: Any) -> float:
    jax.block_until_ready(running)
    return time.perf_counter()


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else tqdm.format_interval(seconds)


def _earlier(line: Mapping[str, Any]) -> tuple[float, float] | None:
    """When the run first began, and its seconds in steps that still count."""
    names = ("time/unix_s", "time/elapsed_s", "time/goodput")
    values = [line.get(name) for name in names]
    numbers = [v for v in values if isinstance(v, float) and 0 <= v < math.inf]
    if len(numbers) < len(names):
        return None
    now, elapsed, goodput = numbers
    return now - elapsed, min(goodput, 1.0) * elapsed
