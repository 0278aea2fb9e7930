"""Makes a folder of images, and trains the folder recipe on it for 200 steps.

python benchmarks/folder.py [--out runs/photographs]

Cuts 64x64 pieces from scikit-learn's two sample photographs into a folder without
classes, like a user's own images, and trains configs/folder.py on it.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from sagan import config as config_lib
from sagan.training import loop

CONFIG = Path(__file__).parents[1] / "configs" / "folder.py"
# narrow enough for two CPU cores
CPU = {"g.width": 16, "d.width": 16, "data.batch": 16, "ema.start": 50}
SIZE, STRIDE = 96, 24


def cut(out: Path) -> int:
    """Writes overlapping squares of both photographs; returns their number."""
    out.mkdir(parents=True, exist_ok=True)
    number = 0
    for photograph in np.asarray(load_sample_images().images):
        height, width, _ = photograph.shape
        for top in range(0, height - SIZE + 1, STRIDE):
            for left in range(0, width - SIZE + 1, STRIDE):
                piece = photograph[top : top + SIZE, left : left + SIZE]
                Image.fromarray(piece).save(out / f"{number:04d}.png")
                number += 1
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/photographs"))
    parser.add_argument("--steps", type=int, default=200)
    known = parser.parse_args()
    images = known.out / "images"
    print(f"{cut(images)} images in {images}")
    cadence = {"run.steps": known.steps, "run.sample_every": 50, "run.log_every": 10}
    values = {**CPU, **cadence, "data.path": str(images.resolve())}
    loop.train(config_lib.load(CONFIG, values), known.out / "run")


if __name__ == "__main__":
    main()
