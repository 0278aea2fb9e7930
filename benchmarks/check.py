"""Time of the data check of a folder: the first start, and the second, which remembers.

python benchmarks/check.py [--images 100000] [--size 32]

Makes a folder of small PNG files in ten classes and checks it twice, with an empty
cache at first. The first start decodes what fits into memory; the second looks at
names, sizes and times only. The disk's cache is warm both times.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sagan.config.schema import DataConfig
from sagan.data.datasets import folder
from sagan.data.validation import check_images


def make(root: Path, images: int, size: int) -> None:
    """Writes different images, dated back: what was just written is not remembered."""
    for label in range(10):
        (root / str(label)).mkdir(parents=True)
    then = time.time() - 60
    for i in range(images):
        path = root / str(i % 10) / f"{i}.png"
        pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(path, compress_level=1)
        os.utime(path, (then, then))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=32)
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["SAGAN_CACHE"] = str(Path(place, "cache"))
        make(Path(place, "images"), known.images, known.size)
        data = DataConfig(
            name="folder", path=str(Path(place, "images")), size=known.size
        )
        for start in ("first", "second"):
            begin = time.perf_counter()
            check_images(folder(data, "train"))
            print(f"{start} start: {time.perf_counter() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
