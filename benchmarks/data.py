"""Measures the input pipeline in images per second, and the cores that feed a v5e-8.

python benchmarks/data.py [--rounds 5] [--batch 256] [--step-seconds 0.0485]

Reads four sources through sagan.data.pipeline.batches: 32x32 in memory; 32x32 PNG and
500x375 JPEG (quality 90, from scikit-learn's two photographs) as array_record files
written by `sagan prepare`; and the same JPEG files in a plain folder. The last two are
read at 128x128. For each source it prints the CPU milliseconds per image of the whole
process, with one batch after another in a single thread, and images per second of wall
time with the threads of `batches`. Both are medians of interleaved rounds, so that
other programs disturb all sources equally.

A training run needs (images per second) x (CPU seconds per image) cores. Nothing was
run on a TPU, so the default of --step-seconds is an assumption: 3.82e12 FLOPs per
device and step as planned by XLA (128 px, global batch 256 on a v5e-8, bf16), at 40 %
of a v5e's 197e12 FLOP/s. A faster step needs proportionally more cores.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from sagan.config import Config, replace
from sagan.data import pipeline, validation
from sagan.data.prepare import prepare

PLANNED_FLOPS, PEAK, SHARE = 3.82e12, 197e12, 0.4
JPEGS, PNGS = 200, 2000


def pieces(count: int, size: tuple[int, int]):
    """Yields resized random crops, at least half as wide as the photographs."""
    photographs = [Image.fromarray(x) for x in load_sample_images().images]
    numbers = np.random.default_rng(0)
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        width = int(photograph.width * numbers.uniform(0.5, 0.9))
        height = min(width * size[1] // size[0], photograph.height)
        left = int(numbers.integers(photograph.width - width + 1))
        top = int(numbers.integers(photograph.height - height + 1))
        yield photograph.resize(size, box=(left, top, left + width, top + height))


def config_of(name: str, path: Path, size: int, batch: int) -> Config:
    values = {"name": name, "path": str(path), "size": size, "batch": batch}
    return replace(Config(), {f"data.{key}": value for key, value in values.items()})


def make_sources(folder: Path, batch: int) -> dict[str, tuple[Config, pipeline.Source]]:
    """Writes the data sets and opens them."""
    jpegs, pngs = folder / "jpegs", folder / "pngs"
    jpegs.mkdir()
    pngs.mkdir()
    for i, image in enumerate(pieces(JPEGS, (500, 375))):
        image.save(jpegs / f"{i:05d}.jpg", quality=90)
    for i, image in enumerate(pieces(PNGS, (32, 32))):
        image.save(pngs / f"{i:05d}.png")
    sizes = [path.stat().st_size for path in jpegs.iterdir()]
    print(f"JPEG 500x375: {np.mean(sizes) / 1000:.0f} kB on average")
    prepared = folder / "prepared"
    names = [prepare("folder", prepared, path).name for path in (pngs, jpegs)]
    configs = {
        "32 px in memory": config_of("folder", pngs, 32, batch),
        "32 px PNG, array_record": config_of(names[0], prepared, 32, batch),
        "128 px of JPEG, array_record": config_of(names[1], prepared, 128, batch),
        "128 px of JPEG, folder": config_of("folder", jpegs, 128, batch),
    }
    sources = {}
    for name, config in configs.items():
        validation.MEMORY = 2**30 if "memory" in name else 0
        sources[name] = (config, pipeline.open_source(config))
    return sources


def one_thread(config: Config, source: pipeline.Source, seconds: float) -> float:
    """CPU seconds per image in one of the threads of `batches`."""
    steps = pipeline._steps(config, source, 0, 1)
    begin, count = time.process_time(), 0
    while time.process_time() < begin + seconds:
        count += steps[count].label.size
    return (time.process_time() - begin) / count


def threads(config: Config, source: pipeline.Source, seconds: float) -> float:
    """Images per second of wall time, after the first batch."""
    stream = pipeline.batches(config, source, 0)
    next(stream)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() < begin + seconds:
        count += next(stream).label.size
    taken = time.perf_counter() - begin
    stream.close()
    return count / taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument(
        "--step-seconds", type=float, default=PLANNED_FLOPS / (SHARE * PEAK)
    )
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = make_sources(Path(folder), known.batch)
        cpu: dict[str, list[float]] = {name: [] for name in sources}
        wall: dict[str, list[float]] = {name: [] for name in sources}
        for _ in range(known.rounds):
            for name, (config, source) in sources.items():
                cpu[name].append(one_thread(config, source, known.seconds))
                wall[name].append(threads(config, source, known.seconds))
    rate = known.batch / known.step_seconds
    print(
        f"{os.cpu_count()} cores here; a step of {known.batch} images every"
        f" {1000 * known.step_seconds:.1f} ms needs {rate:,.0f} images/s"
    )
    print("source | CPU ms per image | images/s per core | images/s here | cores")
    for name in sources:
        each = float(np.median(cpu[name]))
        print(
            f"{name} | {1000 * each:.4f} | {1 / each:,.0f} |"
            f" {np.median(wall[name]):,.0f} | {rate * each:.1f}"
        )


if __name__ == "__main__":
    main()
