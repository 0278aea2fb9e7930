"""Do DiffAugment and LeCam help SAGAN on few images? Fashion-MNIST, cut to its start.

python benchmarks/small_data.py [--images 500 2000 60000] [--seeds 0 1] [--steps 2000]
    [--methods nothing DiffAugment LeCam both]

Each number of images is trained on as it is, with DiffAugment (color,translation), with
LeCam, and with both. 5,000 samples of the averaged weights are compared with the test
split by a classifier of the whole training split. `copied` is the share of samples that
are nearer to a training image than to all of equally many test images, in the
classifier's features: 50 % without memorisation, 100 % for copies.
"""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import grid
import numpy as np
from matplotlib.figure import Figure

from sagan import config as config_lib
from sagan.checkpoints.restore import open_run
from sagan.data.pipeline import open_source
from sagan.evaluation.prepared import PreparedEvaluation
from sagan.evaluation.table import compare_runs, over_seeds, render_table
from sagan.runtime import files
from sagan.sampling import sampler
from sagan.visualization.nearest_neighbours import find_nearest

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


def copied(ready: PreparedEvaluation, workdir: Path, step: int) -> float:
    """Share of samples that are nearer to training images than to as many others."""
    path = workdir / "eval" / f"step_{step}" / "copied.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    opened = open_run(workdir, step)
    labels = np.arange(COPIES, dtype=np.int32) % 10
    drawn = sampler.samples(opened.config, opened.variables, labels, seed=2, batch=500)
    images = [np.concatenate(list(drawn))]
    sources = [open_source(opened.config), open_source(opened.config, "test")]
    few = min(map(len, sources))
    images += [source.examples(np.arange(few)).image for source in sources]
    fakes, *reals = (ready.scorer.network.extract(each)[0] for each in images)
    train, test = (find_nearest([fakes], real, 1).distance[:, 0] for real in reals)
    share = float((train < test).mean())
    files.write_whole(path, json.dumps(share))
    return share


def compare(cells: dict[Path, Cell], copies: dict[Path, float]) -> dict[str, Any]:
    """The table of `sagan table`, with names in words and the column `copied`."""
    table = compare_runs(cells, metrics="fid,improved_recall,accuracy")
    table["better"]["copied"] = ""  # half is what no memorisation gives
    for row in table["rows"]:
        workdirs = [Path(run["workdir"]) for run in row["runs"]]
        cell, each = cells[workdirs[0]], [copies[w] for w in workdirs]
        row["name"] = f"{cell.images:,} images, {cell.method}"
        row["values"]["copied"] = {**over_seeds(each), "each": each}
    return table


def draw(cells: dict[Path, Cell], table: dict[str, Any]) -> Figure:
    """Plots the distance over the number of images, a line for each method."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    points: dict[str, list[Any]] = {}
    for row in table["rows"]:
        cell, value = cells[Path(row["runs"][0]["workdir"])], row["values"]
        points.setdefault(cell.method, []).append((cell.images, value[grid.DISTANCE]))
    for method, found in points.items():
        counts, means = [n for n, _ in found], [value["value"] for _, value in found]
        (line,) = axes.plot(counts, means, label=method)
        for n, value in found:
            each = value["each"]
            axes.plot([n] * len(each), each, ".", color=line.get_color())
    axes.set(xscale="log", xlabel="training images")
    axes.set_ylabel("Fréchet distance (classifier)")
    axes.legend()
    return figure


def main() -> None:
    images = [500, 2000, WHOLE]
    known = grid.parse(
        __doc__,
        steps=2000,
        seeds=[0, 1],
        name="small_data",
        images=images,
        methods=list(METHODS),
    )
    ready, lines = None, []
    cells: dict[Path, Cell] = {}
    copies: dict[Path, float] = {}
    for seed, count, method in itertools.product(
        known.seeds, known.images, known.methods
    ):
        cell = Cell(count, method, seed)
        workdir = known.workdir / f"{count}_{method.lower()}_seed{seed}"
        config = make_config(cell, known.steps)
        if ended := grid.train(config, workdir):
            lines.append(f"- {workdir.name} ended: {ended}")
            continue
        ready = ready or grid.prepare(config, known.samples)
        grid.evaluate(ready, workdir, known.steps)
        cells[workdir] = cell
        copies[workdir] = copied(ready, workdir, known.steps)
    cells = dict(sorted(cells.items(), key=lambda item: place(item[1])))
    table = compare(cells, copies)
    config = make_config(Cell(WHOLE, "nothing", 0), known.steps)
    about = grid.about("small_data", config, known.seeds)
    text = "\n".join([about, "", render_table(table), *lines])
    grid.publish(known.out, "small_data", text, draw(cells, table))


def place(cell: Cell) -> tuple[int, int, int]:
    """Sort key: images, then the order of METHODS, then seeds."""
    return cell.images, list(METHODS).index(cell.method), cell.seed


if __name__ == "__main__":
    main()
