"""Measures time and memory of the metrics over all pairs; extrapolates to 50,000.

python benchmarks/metrics.py [--features 2048] [--images 5000 10000]

Each row is a process of its own, so that its peak memory is its own; compilation is
included. The printed power of n is that of the CPU seconds. The wall time at 50,000 is
extrapolated from the larger number by n^2, as the products grow. Memory is extrapolated
linearly: features in float32 and float64, and blocks of a fixed size. The kernel
distance is timed with one subset; a hundred subsets cost the same at every n, and are
the last line.
"""

import argparse
import concurrent.futures
import math
import multiprocessing
import resource
import time

import numpy as np

from sagan.metrics.interface import Extracted, Metric
from sagan.metrics.kid import KernelDistance
from sagan.metrics.prdc import PrecisionRecall

TARGET = 50_000
GIB = 2**30


def features(n, d, seed):
    vector = np.random.default_rng(seed).standard_normal((n, d), np.float32)
    return Extracted(
        image=np.zeros((n, 1, 1, 1), np.uint8),
        label=np.zeros(n, np.int32),
        vector=np.maximum(vector, 0),  # Inception's are past a ReLU
        logits=np.zeros((n, 0), np.float32),
    )


def measure(metric: Metric, n: int, d: int):
    """Seconds, CPU seconds and peak bytes of one `compute`, and the peak before it."""
    real, fake = (
        metric.update(metric.empty(), features(n, d, seed)) for seed in (0, 1)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    metric.compute(real, fake)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return wall, cpu, peak * 1024, before * 1024  # Linux counts in KiB


def apart(metric, n, d):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, metric, n, d).result()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--images", type=int, nargs=2, default=[5000, 10_000])
    args = parser.parse_args()
    small, large = sorted(args.images)
    for metric in (PrecisionRecall(), KernelDistance(subsets=1)):
        name, rows = type(metric).__name__, []
        for n in (small, large):
            wall, cpu, peak, before = apart(metric, n, args.features)
            rows.append((cpu, wall, peak))
            print(
                f"{name} {n}: {wall:.1f} s, {cpu:.1f} CPU s,"
                f" peak {peak / GIB:.2f} GiB ({before / GIB:.2f} before)",
                flush=True,
            )
        power = math.log(rows[1][0] / rows[0][0]) / math.log(large / small)
        seconds = rows[1][1] * (TARGET / large) ** 2
        slope = (rows[1][2] - rows[0][2]) / (large - small)
        peak = rows[1][2] + slope * (TARGET - large)
        print(
            f"{name} {TARGET}: {seconds:.0f} s and {peak / GIB:.1f} GiB expected"
            f" (CPU seconds grow as n^{power:.2f} so far)"
        )
    one, many = (
        apart(KernelDistance(subsets=subsets), small, args.features)[0]
        for subsets in (1, 11)
    )
    print(f"Kernel: a hundred subsets {10 * (many - one):.0f} s")


if __name__ == "__main__":
    main()
