"""Runs the monitor over healthy and diverging runs of configs/digits.py.

python benchmarks/monitor.py [--cases healthy0 lr10 ...] [--workdir runs/monitor]

Trains each case with every step logged (four minutes for a healthy one on two quiet
cores; a finished case is not trained again), and feeds its metrics.jsonl to a fresh
detector. Prints the findings and, for each check, how near the run came to its
threshold: the worst value that lasted for as many steps as make a finding. The exit
code is 0 if the healthy runs have no finding and every diverging one has.
"""

import argparse
import collections
import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp

from sagan import config as config_lib
from sagan.state import Game, GANState
from sagan.training import divergence, loop, parallel

CONFIGS = Path(__file__).parents[1] / "configs"
EVERY = {"run.log_every": 1, "run.watch_every": 25, "run.tensorboard": False}
COLLAPSE = 20  # the step after which the generator of "collapsed" gives one image


@dataclasses.dataclass(frozen=True)
class Case:
    """A run: its length, the values it changes, and whether it diverges."""

    steps: int
    values: dict[str, object]
    diverges: bool = True
    collapse: bool = False


CASES = {
    **{f"healthy{s}": Case(2000, {"run.seed": s}, diverges=False) for s in range(3)},
    "lr10": Case(60, {"optim.g_lr": 10.0, "optim.d_lr": 10.0}),
    "lr10_d": Case(60, {"optim.d_lr": 10.0}),
    "lr10_g": Case(60, {"optim.g_lr": 10.0}),
    "d_lr_x100": Case(150, {"optim.d_lr": 0.1}),
    "collapsed": Case(60, {"optim.g_lr": 0.0}, collapse=True),
}


def collapse(state: GANState) -> GANState:
    """The generator's last batch norm gives zero: one image for every latent."""
    zero = jax.tree.map(jnp.zeros_like, state.g.params["bn_out"])
    params = {**state.g.params, "bn_out": zero}
    return dataclasses.replace(state, g=dataclasses.replace(state.g, params=params))


def collapsing(map_step, game: Game) -> parallel.Mapped:
    mapped = map_step(game)

    def step(state, batch):
        if int(state.step) == COLLAPSE:
            state = mapped.place_state(collapse(state))
        return mapped.step(state, batch)

    return mapped._replace(step=step)


def train(case: Case, workdir: Path) -> None:
    values = {"run.steps": case.steps, "run.sample_every": case.steps}
    values |= {"run.checkpoint_every": case.steps, **EVERY, **case.values}
    map_step = parallel.map_step
    if case.collapse:
        parallel.map_step = functools.partial(collapsing, map_step)
    try:
        loop.train(config_lib.load(CONFIGS / "digits.py", values), workdir)
    finally:
        parallel.map_step = map_step


def margins(rows: list[dict[str, float]]) -> dict[str, float]:
    """By finding: the worst value that held as long as makes a finding."""
    past = collections.defaultdict(lambda: collections.deque(maxlen=divergence.MEMORY))
    series = collections.defaultdict(list)
    for row in rows:
        series["discriminator_saturation"].append(row["d_saturated"])
        series["diverging_logits"].append(max(abs(row["d_real"]), abs(row["d_fake"])))
        series["mode_collapse"].append(-row["fake_diversity"] / row["real_diversity"])
        for player in "dg":
            norm = f"{player}_grad_norm"
            series[f"{player}_vanishing_gradients"].append(-row[norm])
            if (ratio := divergence.growth(player, row, past)) is not None:
                series[f"{player}_exploding_gradients"].append(ratio)
            past[norm].append(row[norm])
            if (name := f"sigma_error/{player}_max") in row:
                series[f"{player}_spectral_norm_lag"].append(row[name])
    worst = {}
    for name, values in series.items():
        lasts = divergence.CHECKS[name].lasts
        held = [min(values[i : i + lasts]) for i in range(len(values) - lasts + 1)]
        worst[name] = abs(max(held, default=float("nan")))
    return worst


def examine(
    workdir: Path,
) -> tuple[list[tuple[int, divergence.Finding]], dict[str, float]]:
    text = (workdir / "metrics.jsonl").read_text()
    rows = [
        {name: float(value) for name, value in json.loads(line).items()}
        for line in text.splitlines()
    ]
    detector = divergence.Detector({})
    found = [
        (int(row["step"]), finding)
        for row in rows
        for finding in detector.examine(int(row["step"]), row)
    ]
    return found, margins(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--workdir", type=Path, default=Path("runs/monitor"))
    known = parser.parse_args()
    wrong = []
    for name in known.cases:
        case, workdir = CASES[name], known.workdir / name
        if not any(workdir.glob(f"checkpoints/{case.steps}")):
            train(case, workdir)
        found, worst = examine(workdir)
        print(f"{name}: " + ", ".join(f"{k} {v:.3g}" for k, v in worst.items()))
        for step, finding in found:
            print(f"  step {step} (since {finding.since}), {finding.name}:")
            print(f"    {finding.message}")
        if case.diverges != bool(found):
            wrong.append(name)
    print(f"wrong: {', '.join(wrong) or 'none'}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
