"""Figure 3 of the paper on Fashion-MNIST: which stabilisation diverges, and when?

python benchmarks/stabilisation.py [--seeds 0 1 2] [--steps 2000] [--workdir DIR]

The rows are those of configs/stabilisation/: spectral norm (SN) in D alone or in both
networks with one learning rate, and SN in both with two (TTUR). One rate is the
generator's for both. Each checkpoint's averaged weights are evaluated: 5,000 samples
are compared with the test split in the features of a classifier. Findings are those of
the monitor, which goes on as `run.on_divergence warn` does.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import grid
from matplotlib.figure import Figure

from sagan import config as config_lib
from sagan.checkpoints.workdir import read_config
from sagan.evaluation.table import compare_runs, render_table
from sagan.visualization.run_record import read_record

CONFIGS = Path(__file__).parents[1] / "configs" / "stabilisation"
ROWS = {
    "sn_d": "SN in D, one rate",
    "sn_gd": "SN in both, one rate",
    "sn_gd_ttur": "SN in both, two rates",
}
EVERY = 250  # steps between evaluations


def make_config(row: str, seed: int, steps: int) -> config_lib.Config:
    """The short run with the row's changes; one rate is that of G."""
    changed = config_lib.load(CONFIGS / f"{row}.py")
    config = grid.make_config({"run.seed": seed, "run.steps": steps})
    rates = changed.optim.d_lr / changed.optim.g_lr
    return config_lib.replace(
        config,
        {
            "g.sn": changed.g.sn,
            "d.sn": changed.d.sn,
            "optim.d_lr": rates * config.optim.g_lr,
            "run.checkpoint_every": EVERY,
            "run.keep": steps // EVERY + 10,  # a stopped run saves at once
        },
    )


def findings(workdirs: Sequence[Path]) -> Iterator[str]:
    """For each kind of finding: in how many runs, and its first step in each."""
    first: defaultdict[str, list[int]] = defaultdict(list)
    for workdir in workdirs:
        seen: dict[str, int] = {}
        for line in read_record(workdir, read_config(workdir)).findings:
            seen.setdefault(line["finding"], line["since"])
        for name, step in seen.items():
            first[name].append(step)
    for name, steps in sorted(first.items()):
        at = ", ".join(map(str, sorted(steps)))
        yield f"{name} in {len(steps)} of {len(workdirs)} runs, from step {at}"


def main() -> None:
    known = grid.parse(__doc__, steps=2000, seeds=[0, 1, 2], name="stabilisation")
    ready, ended = None, {}
    runs: dict[str, list[Path]] = {row: [] for row in ROWS}
    curves: dict[Path, dict[int, float]] = {}
    for seed in known.seeds:
        for row in ROWS:
            workdir = known.workdir / f"{row}_seed{seed}"
            ended[workdir] = grid.train(make_config(row, seed, known.steps), workdir)
            ready = ready or grid.prepare(
                make_config(row, seed, known.steps), known.samples
            )
            found = grid.evaluate(ready, workdir, EVERY)
            curves[workdir] = {s: one[grid.DISTANCE] for s, one in found.items()}
            runs[row].append(workdir)
    config = make_config("sn_gd_ttur", known.seeds[0], known.steps)
    lines = [grid.about("stabilisation", config, known.seeds), ""]
    whole = [workdir for workdir, points in curves.items() if known.steps in points]
    chosen = "fid,improved_recall,accuracy"
    if whole:
        table = compare_runs(whole, step=str(known.steps), metrics=chosen)
        lines += [render_table(table), ""]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for row, colour in zip(ROWS, ("tab:red", "tab:orange", "tab:blue"), strict=True):
        found = "; ".join(findings(runs[row])) or "no finding of the monitor"
        lines.append(f"- {ROWS[row]} ({row}.py): {found}")
        for i, workdir in enumerate(runs[row]):
            if ended[workdir]:
                lines.append(f"  - {workdir.name} ended: {ended[workdir]}")
            points = curves[workdir]
            label = ROWS[row] if i == 0 else None
            axes.plot([*points], [*points.values()], ".-", color=colour, label=label)
    axes.set(yscale="log", xlabel="step", ylabel="Fréchet distance (classifier)")
    axes.legend()
    grid.publish(known.out, "stabilisation", "\n".join(lines), figure)


if __name__ == "__main__":
    main()
