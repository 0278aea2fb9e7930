"""Times the start of a run to its first step, with a cold and a warm compilation cache.

python benchmarks/start.py [--rounds 3]

Each round starts `train.py configs/digits.py` twice with one new cache directory, and
once with run.compilation_cache off. Times are from the start of the process to the line
that reports the first step.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


def start(cache: str, *args: str) -> float:
    """Seconds until a fresh run has finished its first step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", "train.py", "configs/digits.py"]
        command += ["--workdir", f"{folder}/run", "--run.steps", "2", *args]
        environment = {**os.environ, "SAGAN_CACHE": cache}
        began = time.perf_counter()
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as run:
            assert run.stdout is not None
            seconds = None
            for line in run.stdout:
                if line.startswith("first step"):
                    seconds = time.perf_counter() - began
        if run.returncode or seconds is None:
            raise SystemExit(f"the run failed with exit code {run.returncode}")
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {"off": [], "first": [], "second": []}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            times["off"].append(start(cache, "--run.no-compilation-cache"))
            times["first"].append(start(cache))
            times["second"].append(start(cache))
        told = ", ".join(f"{name} {values[-1]:.1f} s" for name, values in times.items())
        print(f"round {number + 1}: {told}", flush=True)
    ratios = [b / a for a, b in zip(times["first"], times["second"], strict=True)]
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(", ".join(f"{name} {value:.1f} s" for name, value in middle.items()))
    print(f"second start relative to first: {statistics.median(ratios):.2f} (median)")


if __name__ == "__main__":
    main()
