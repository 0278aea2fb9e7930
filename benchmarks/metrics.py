"""Measures time and memory of FID, KID and precision/recall, from start to end.

python benchmarks/metrics.py [--features 2048] [--images 5000 50000] [--out FILE]

The features are random, past a ReLU as Inception's are, as many real as fake. Each row
is a process of its own, so that its peak memory is its own. The time includes
compilation and the moments of both sets, and not the features.
"""

import argparse
import concurrent.futures
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
from grid import processor

from sagan.metrics import METRICS
from sagan.metrics.interface import Extracted
from sagan.runtime.files import write_whole

NAMES = ("fid", "fid_infinity", "kid", "prdc")
GIB = 2**30


def features(n: int, d: int, seed: int) -> Extracted:
    """Features of n images."""
    vector = np.random.default_rng(seed).standard_normal((n, d), np.float32)
    return Extracted(
        image=np.zeros((n, 1, 1, 1), np.uint8),
        label=np.zeros(n, np.int32),
        vector=np.maximum(vector, 0),
        logits=np.zeros((n, 0), np.float32),
    )


def measure(name: str, n: int, d: int) -> str:
    """A line: seconds, CPU seconds, peak memory, and the peak before the metric."""
    metric, sets = METRICS[name], [features(n, d, seed) for seed in (0, 1)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    metric.compute(*(metric.update(metric.empty(), one) for one in sets))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = f"peak {peak * 1024 / GIB:.2f} GiB ({before * 1024 / GIB:.2f} before)"
    return f"{name}, {n:,} images: {wall:.1f} s, {cpu:.1f} CPU s, {memory}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--images", type=int, nargs="+", default=[5000])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [f"{args.features} random features, {processor()}"]
    print(lines[0])
    context = multiprocessing.get_context("spawn")
    for n in args.images:
        for name in NAMES:
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                lines.append(pool.submit(measure, name, n, args.features).result())
            print(lines[-1], flush=True)
    if args.out:
        write_whole(args.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
