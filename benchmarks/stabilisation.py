"""Figure 3 of the paper on Fashion-MNIST: which stabilisation diverges, and when?

python benchmarks/stabilisation.py [--seeds 0 1 2] [--steps 3000] [--workdir DIR]

The rows are those of configs/stabilisation/: spectral norm (SN) in D alone or in both
networks, with one learning rate, and SN in both with two (TTUR). One rate is the
generator's for both. Each checkpoint's averaged weights are evaluated: the Fréchet
distance of 5,000 samples to the test split in the features of a classifier. Findings
are those of the monitor, which goes on as `run.on_divergence warn` does.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import grid
from matplotlib.figure import Figure

from sagan import config as config_lib
from sagan.evaluation import results

RESULTS = Path(__file__).parent / "results"
CONFIGS = Path(__file__).parents[1] / "configs" / "stabilisation"
ROWS = {
    "sn_d": "SN in D, one rate",
    "sn_gd": "SN in both, one rate",
    "sn_gd_ttur": "SN in both, two rates",
}
EVERY = 500  # steps between evaluations


def make_config(row: str, seed: int, steps: int) -> config_lib.Config:
    """Whatever the row's file changes, with rates relative to this run's."""
    changed = config_lib.load(CONFIGS / f"{row}.py")
    config = grid.make_config({"run.seed": seed, "run.steps": steps})
    one_rate = changed.optim.d_lr == changed.optim.g_lr
    rate = config.optim.g_lr
    return config_lib.replace(
        config,
        {
            "g.sn": changed.g.sn,
            "d.sn": changed.d.sn,
            "optim.d_lr": rate if one_rate else 4 * rate,
            "run.checkpoint_every": EVERY,
            "run.keep": steps // EVERY + 1,
        },
    )


def first_findings(workdirs: list[Path]) -> Iterator[str]:
    """For each kind of finding: in how many runs, and its first step in each."""
    first: dict[str, list[int]] = {}
    for workdir in workdirs:
        seen: dict[str, int] = {}
        for line in grid.findings(workdir):
            seen.setdefault(line["finding"], line["since"])
        for name, step in seen.items():
            first.setdefault(name, []).append(step)
    for name, steps in sorted(first.items()):
        yield f"{name} in {len(steps)} of {len(workdirs)} runs, from step " + (
            ", ".join(map(str, sorted(steps)))
        )


def report(runs: dict[str, list[Path]]) -> Iterator[str]:
    """The table of distances over steps, and what the monitor found."""
    curves = {
        row: [grid.curve(workdir, grid.DISTANCE) for workdir in workdirs]
        for row, workdirs in runs.items()
    }
    steps = sorted({step for each in curves.values() for one in each for step in one})
    rows = [["step", *(ROWS[row] for row in curves)]]
    for step in steps:
        cells = []
        for each in curves.values():
            values = [one[step] for one in each if step in one]
            spread = f" ± {statistics.stdev(values):.2g}" if values[1:] else ""
            mean = f"{statistics.mean(values):.4g}{spread}" if values else ""
            some = f" ({len(values)} of {len(each)})" if len(values) < len(each) else ""
            cells.append(mean + some)
        rows.append([str(step), *cells])
    yield f"{grid.DISTANCE}, mean and sample standard deviation over seeds:\n"
    yield results.markdown_table(rows)
    for row, workdirs in runs.items():
        yield f"\n{ROWS[row]}: " + ("; ".join(first_findings(workdirs)) or "no finding")
        for workdir in workdirs:
            if (workdir / "diverged.txt").exists():
                yield f"  {workdir.name}: {(workdir / 'diverged.txt').read_text()}"


def draw(path: Path, runs: dict[str, list[Path]]) -> None:
    """Plots every run's distance over its steps."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for row, colour in zip(runs, ("#d62728", "#ff7f0e", "#1f77b4"), strict=True):
        for i, workdir in enumerate(runs[row]):
            points = sorted(grid.curve(workdir, grid.DISTANCE).items())
            label = ROWS[row] if i == 0 else None
            axes.plot(*zip(*points, strict=True), ".-", color=colour, label=label)
    axes.set(yscale="log", xlabel="step", ylabel="Fréchet distance (classifier)")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--workdir", type=Path, default=Path("runs/stabilisation"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    known = parser.parse_args()
    ready, runs = None, {row: [] for row in ROWS}
    for seed in known.seeds:
        for row in ROWS:
            workdir = known.workdir / f"{row}_seed{seed}"
            config = make_config(row, seed, known.steps)
            grid.train(config, workdir)
            ready = ready or grid.prepare(config, known.samples)
            grid.evaluate(ready, workdir, "all")
            runs[row].append(workdir)
    config = make_config("sn_gd_ttur", known.seeds[0], known.steps)
    text = "\n".join([grid.about("stabilisation.py", config, known.seeds), ""])
    text += "\n" + "\n".join(report(runs)) + "\n"
    known.out.mkdir(parents=True, exist_ok=True)
    (known.out / "stabilisation.txt").write_text(text, encoding="utf-8")
    draw(known.out / "stabilisation.png", runs)
    print(text)


if __name__ == "__main__":
    main()
