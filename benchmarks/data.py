"""Measures the input pipeline in images per second, and the cores that feed a v5e-8.

python benchmarks/data.py [--rounds 5] [--batch 256] [--step-seconds 0.0485]

Reads 128x128 images, half of them mirrored, through sagan.data.pipeline.batches: from
500x375 JPEG files (quality 90, pieces of scikit-learn's two photographs) in a folder
and in array_record files of TFDS; from 128x128 PNG and JPEG in array_record files of
TFDS; and from what `sagan prepare --size 128` writes in each of its formats. For
comparison, 32x32 images in memory. For each source it prints

- the CPU milliseconds per image of the whole process, one batch after another in a
  single thread
- how many of these are outside Pillow's decoder, which releases the interpreter's lock.
  What holds the lock is among them, so the lock alone does not limit one process to
  fewer images per second than their inverse
- images per second of wall time with the threads of `batches`

A last line says what the lock allows: images per second of the prepared JPEG files if
16 threads sleep for 0.15 ms, which takes no core, wherever they would decode.

All are medians of interleaved rounds, so that other programs disturb all sources
equally. It also times mirroring against the plain NumPy expression.

A training run needs (images per second) x (CPU seconds per image) cores. Nothing was
run on a TPU, so the default of --step-seconds is an assumption: 3.82e12 FLOPs per
device and step as planned by XLA (128 px, global batch 256 on a v5e-8, bf16), at 40 %
of a v5e's 197e12 FLOP/s. A faster step needs proportionally more cores.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_sample_images

from sagan.config import Config, replace
from sagan.data import pipeline, validation
from sagan.data.images import decode
from sagan.data.prepare import prepare

PLANNED_FLOPS, PEAK, SHARE = 3.82e12, 197e12, 0.4
COUNT = 2000


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
    values["flip"] = True
    return replace(Config(), {f"data.{key}": value for key, value in values.items()})


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def write_tfds(stored_name: str, root: Path, contents) -> None:
    """Writes encoded images as TFDS's builders do."""

    class Images(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Encoded images."""

        name = stored_name
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": enumerate({"image": content} for content in contents)}

        def _generate_examples(self):
            raise NotImplementedError

    Images(data_dir=str(root), file_format="array_record").download_and_prepare()


def make_sources(folder: Path, batch: int) -> dict[str, tuple[Config, pipeline.Source]]:
    """Writes the data sets and opens them."""
    jpegs, pngs, tfds_dir = (folder / name for name in ("jpegs", "pngs", "tfds"))
    jpegs.mkdir()
    pngs.mkdir()
    for i, image in enumerate(pieces(COUNT, (500, 375))):
        image.save(jpegs / f"{i:05d}.jpg", quality=90)
    for i, image in enumerate(pieces(COUNT, (32, 32))):
        image.save(pngs / f"{i:05d}.png")
    files = sorted(jpegs.iterdir())
    mean = np.mean([path.stat().st_size for path in files])
    print(f"JPEG 500x375: {mean / 1000:.0f} kB on average")
    configs = {
        "32 px in memory": config_of("folder", pngs, 32, batch),
        "JPEG 500x375, folder": config_of("folder", jpegs, 128, batch),
    }
    data = configs["JPEG 500x375, folder"].data
    small = [Image.fromarray(decode(str(path), data)) for path in files]
    jpeg = {"format": "jpeg", "quality": 95, "subsampling": 0}
    for what, contents in {
        "JPEG 500x375": [path.read_bytes() for path in files],
        "JPEG 128 px": [encoded(image, **jpeg) for image in small],
        "PNG 128 px": [encoded(image, format="png") for image in small],
    }.items():
        name = what.lower().replace(" ", "_")
        write_tfds(name, tfds_dir, contents)
        configs[f"{what}, array_record of TFDS"] = config_of(name, tfds_dir, 128, batch)
    for kind in ("jpeg", "png", "raw"):
        made = prepare(str(jpegs), folder / kind, size=128, format=kind)
        size = sum(path.stat().st_size for path in made.path.iterdir()) / COUNT
        what = f"prepared as {kind}, {size / 1000:.0f} kB each"
        configs[what] = config_of(made.name, made.path, 128, batch)
    sources = {}
    for name, config in configs.items():
        validation.MEMORY = 2**30 if "memory" in name else 0
        sources[name] = (config, pipeline.open_source(config))
    return sources


class TimedDecoder:
    """One of Pillow's decoders; adds the CPU time of its calls to a sum."""

    def __init__(self, decoder, spent: list[float]):
        self._decoder, self._spent = decoder, spent

    def __getattr__(self, name: str):
        return getattr(self._decoder, name)

    def decode(self, content: bytes):
        begin = time.thread_time()
        found = self._decoder.decode(content)
        self._spent[0] += time.thread_time() - begin
        return found


class SleepingDecoder(TimedDecoder):
    """Sleeps instead of decoding."""

    def decode(self, content: bytes):
        time.sleep(0.15e-3)
        return -1, 0  # complete, without an error


@contextlib.contextmanager
def other_decoders(kind: type[TimedDecoder]):
    """Yields a list of one number, the CPU seconds in decoders."""
    spent, plain = [0.0], Image._getdecoder
    Image._getdecoder = lambda *args: kind(plain(*args), spent)
    try:
        yield spent
    finally:
        Image._getdecoder = plain


def one_thread(
    config: Config, source: pipeline.Source, seconds: float
) -> tuple[float, float]:
    """CPU seconds per image in a thread of `batches`: all, and outside decoders."""
    steps = pipeline._steps(config, source, 0, 1)
    with other_decoders(TimedDecoder) as inside:
        begin, count = time.process_time(), 0
        while time.process_time() < begin + seconds:
            count += steps[count].label.size
        taken = time.process_time() - begin
    return taken / count, (taken - inside[0]) / count


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


def limit_of_lock(config: Config, source: pipeline.Source, seconds: float) -> float:
    """Images per second of 16 threads that decode without a core."""
    count = os.cpu_count
    os.cpu_count = lambda: 16  # read by `batches`
    try:
        with other_decoders(SleepingDecoder):
            return threads(config, source, seconds)
    finally:
        os.cpu_count = count


def mirror_plainly(images: np.ndarray, chosen: np.ndarray) -> None:
    images[chosen] = images[chosen, :, ::-1]


def mirror_ratio(rounds: int) -> float:
    """Time of our mirroring, relative to the plain expression's."""
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (256, 128, 128, 3), np.uint8)
    chosen = numbers.random(256) < 0.5
    ratios = []
    for _ in range(rounds):
        times = []
        for mirror in (pipeline._mirror, mirror_plainly):
            begin = time.process_time()
            mirror(images, chosen)
            times.append(time.process_time() - begin)
        ratios.append(times[0] / times[1])
    return float(np.median(ratios))


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
        cpu: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}
        wall: dict[str, list[float]] = {name: [] for name in sources}
        limits = []
        for _ in range(known.rounds):
            for name, (config, source) in sources.items():
                cpu[name].append(one_thread(config, source, known.seconds))
                wall[name].append(threads(config, source, known.seconds))
                if name.startswith("prepared as jpeg"):
                    limits.append(limit_of_lock(config, source, known.seconds))
    rate = known.batch / known.step_seconds
    print(
        f"{os.cpu_count()} cores here; a step of {known.batch} images every"
        f" {1000 * known.step_seconds:.1f} ms needs {rate:,.0f} images/s"
    )
    print(
        "source | CPU ms per image | outside the decoder | images/s per core |"
        " images/s here | cores"
    )
    for name in sources:
        each, outside = np.median(cpu[name], axis=0)
        print(
            f"{name} | {1000 * each:.4f} | {1000 * outside:.4f} | {1 / each:,.0f} |"
            f" {np.median(wall[name]):,.0f} | {rate * each:.1f}"
        )
    print(
        f"prepared as jpeg, if decoding took no core: {np.median(limits):,.0f} images/s"
    )
    print(f"mirroring, relative to the plain expression: {mirror_ratio(15):.2f}")


if __name__ == "__main__":
    main()
