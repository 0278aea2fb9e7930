"""Do DiffAugment and LeCam help SAGAN on few images? Fashion-MNIST, cut to its start.

python benchmarks/small_data.py [--images 500 2000 60000] [--seeds 0 1] [--steps 2000]

Each number of images is trained on as it is, with DiffAugment (color,translation), with
LeCam, and with both. 5,000 samples of the averaged weights are compared with the test
split by a classifier of the whole training split. `copied` is the share of samples that
are nearer to a training image than to all of equally many test images, in the
classifier's features: 50 % without memorisation, 100 % for copies.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grid
import numpy as np
from matplotlib.figure import Figure

from sagan import config as config_lib
from sagan.checkpoints.restore import open_run
from sagan.data.pipeline import open_source
from sagan.evaluation import results
from sagan.evaluation.run import PreparedEvaluation
from sagan.sampling import sampler
from sagan.visualization.nearest_neighbours import find_nearest

RESULTS = Path(__file__).parent / "results"
DIFFAUGMENT = {"augment.policy": "color,translation"}
LECAM = {"reg.lecam": 0.3, "reg.lecam_start": 300}
METHODS = {
    "nothing": {},
    "DiffAugment": DIFFAUGMENT,
    "LeCam": LECAM,
    "both": DIFFAUGMENT | LECAM,
}
WHOLE = 60_000
COPIES = 1000  # samples whose nearest images are searched
COLUMNS = ("fd_classifier", "improved_recall_classifier", "accuracy_classifier")


class Cell(NamedTuple):
    """One run."""

    images: int
    method: str
    seed: int


def make_config(cell: Cell, steps: int) -> config_lib.Config:
    """The config of a run."""
    split = "train" if cell.images == WHOLE else f"train[:{cell.images}]"
    changes = {"run.seed": cell.seed, "run.steps": steps, "data.split": split}
    return grid.make_config(changes | METHODS[cell.method])


def copied(ready: PreparedEvaluation, workdir: Path) -> float:
    """Share of samples that are nearer to training images than to as many others."""
    path = workdir / "copied.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    opened = open_run(workdir)
    labels = np.arange(COPIES, dtype=np.int32) % 10
    drawn = sampler.samples(opened.config, opened.variables, labels, seed=2, batch=500)
    images = [np.concatenate(list(drawn))]
    sources = [open_source(opened.config), open_source(opened.config, "test")]
    few = min(map(len, sources))
    images += [source.examples(np.arange(few)).image for source in sources]
    fakes, *reals = (ready.scorer.network.extract(each)[0] for each in images)
    train, test = (find_nearest([fakes], real, 1).distance[:, 0] for real in reals)
    share = float((train < test).mean())
    path.write_text(json.dumps(share), encoding="utf-8")
    return share


def report(values: dict[Cell, dict[str, float]]) -> Iterator[str]:
    """The table: means and deviations over seeds."""
    names = [*COLUMNS, "copied"]
    rows = [["images", "method", *names]]
    for (images, method), cells in itertools.groupby(values, lambda cell: cell[:2]):
        every = [values[cell] for cell in cells]
        texts = []
        for name in names:
            numbers = [one[name] for one in every]
            spread = f" ± {statistics.stdev(numbers):.2g}" if numbers[1:] else ""
            texts.append(f"{statistics.mean(numbers):.3g}{spread}")
        rows.append([f"{images:,}", method, *texts])
    yield results.markdown_table(rows)


def draw(path: Path, values: dict[Cell, dict[str, float]]) -> None:
    """Plots the distance over the number of images, a line for each method."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for method in METHODS:
        cells = [cell for cell in values if cell.method == method]
        counts = sorted({cell.images for cell in cells})
        by_count = [
            [values[cell][grid.DISTANCE] for cell in cells if cell.images == count]
            for count in counts
        ]
        (line,) = axes.plot(counts, list(map(statistics.mean, by_count)), label=method)
        for count, each in zip(counts, by_count, strict=True):
            axes.plot([count] * len(each), each, ".", color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel="training images")
    axes.set_ylabel("Fréchet distance (classifier)")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000, WHOLE])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--workdir", type=Path, default=Path("runs/small_data"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    known = parser.parse_args()
    ready, values = None, {}
    for seed, images, method in itertools.product(known.seeds, known.images, METHODS):
        cell = Cell(images, method, seed)
        workdir = known.workdir / f"{images}_{method.lower()}_seed{seed}"
        config = make_config(cell, known.steps)
        if ended := grid.train(config, workdir):
            print(f"{workdir}: {ended}")
        ready = ready or grid.prepare(config, known.samples)
        grid.evaluate(ready, workdir, "latest")
        found = {name: grid.curve(workdir, name) for name in COLUMNS}
        values[cell] = {name: each[max(each)] for name, each in found.items()}
        values[cell]["copied"] = copied(ready, workdir)
        print(cell, values[cell], flush=True)
    values = dict(sorted(values.items(), key=lambda item: place(item[0])))
    config = make_config(Cell(WHOLE, "nothing", known.seeds[0]), known.steps)
    about = grid.about("small_data.py", config, known.seeds)
    reals = ready.baselines()[0] if ready else {}
    floor = ", ".join(f"{n} {reals[n].value:.3g}" for n in COLUMNS if n in reals)
    text = f"{about}\n\n" + "\n".join(report(values))
    text += f"\n\nreal against real: {floor}\n"
    known.out.mkdir(parents=True, exist_ok=True)
    (known.out / "small_data.txt").write_text(text, encoding="utf-8")
    draw(known.out / "small_data.png", values)
    print(text)


def place(cell: Cell) -> tuple[int, int, int]:
    """Sort key: images, then the order of METHODS, then seeds."""
    return cell.images, list(METHODS).index(cell.method), cell.seed


if __name__ == "__main__":
    main()
