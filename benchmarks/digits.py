"""Measures the class accuracy of samples from the README's digits run.

python benchmarks/digits.py [--seeds 0 1 2] [--workdir runs/digits-benchmark]

Trains configs/digits.py once per seed (about five minutes each on two cores; a finished
run is not trained again), generates 2,000 images with the averaged weights, and counts
how many are classified as their label. The classifier is a support vector machine on
pixels, trained on the real training split; it must itself be right on 97 % of the real
test split.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from sklearn.svm import SVC

from sagan import config as config_lib
from sagan.checkpoints import restore
from sagan.data import pipeline
from sagan.sampling import sampler
from sagan.state import gammas, generator_variables
from sagan.training import loop

CONFIG = Path(__file__).parents[1] / "configs" / "digits.py"
SAMPLES = 2000


def pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0


def examples(config: config_lib.Config, split: str) -> tuple[np.ndarray, np.ndarray]:
    source = pipeline.open_source(config, split)
    everything = source.examples(np.arange(len(source)))
    return pixels(everything.image), everything.label


def train(seed: int, workdir: Path) -> float | None:
    """Seconds from start to end; None if the run had already finished."""
    begin = time.perf_counter()
    done = (workdir / "checkpoints").exists()
    loop.train(config_lib.load(CONFIG, {"run.seed": seed}), workdir)
    return None if done else time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits-benchmark"))
    known = parser.parse_args()
    config = config_lib.load(CONFIG)
    classifier = SVC(C=10.0).fit(*examples(config, "train"))
    real = classifier.score(*examples(config, "test"))
    print(f"classifier on the real test split: {real:.1%}")
    if real < 0.97:
        raise SystemExit("the classifier is too weak for this benchmark")
    rows = []
    for seed in known.seeds:
        workdir = known.workdir / f"seed{seed}"
        seconds = train(seed, workdir)
        config = config_lib.from_json((workdir / "config.json").read_text())
        state, step = restore.SavedRun(workdir, config).load()
        labels = np.arange(SAMPLES, dtype=np.int32) % 10
        variables = generator_variables(state, 0)
        pieces = sampler.samples(config, variables, labels, seed=1, batch=500)
        right = classifier.predict(pixels(np.concatenate(list(pieces)))) == labels
        row = {"seed": seed, "step": step, "accuracy": float(right.mean())}
        row["worst_class"] = min(float(right[labels == k].mean()) for k in range(10))
        row["gamma_g"], row["gamma_d"] = (
            float(next(iter(gammas(player.params).values())))
            for player in (state.g, state.d)
        )
        rows.append(row | {"seconds": seconds})
        print(json.dumps(rows[-1]))
    accuracies = [row["accuracy"] for row in rows]
    print(
        f"accuracy of {SAMPLES} samples: {np.mean(accuracies):.1%} on average, ", end=""
    )
    print(f"{min(accuracies):.1%} at worst, over {len(rows)} seeds")


if __name__ == "__main__":
    main()
