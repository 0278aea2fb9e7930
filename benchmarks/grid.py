"""Trains and evaluates several settings with several seeds; a library of the scripts.

A run that was stopped is resumed; neither finished runs nor evaluations are repeated.
All runs are compared with the same reals by the same classifier.
"""

import argparse
import dataclasses
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sagan import config as config_lib
from sagan.checkpoints.restore import SavedRun
from sagan.checkpoints.workdir import read_config
from sagan.config import Config
from sagan.data.pipeline import open_source, resolve
from sagan.evaluation import generated, results
from sagan.evaluation.prepared import PreparedEvaluation, prepare_evaluation
from sagan.evaluation.protocol import Protocol
from sagan.evaluation.run import evaluate_state
from sagan.runtime import files, program_cache
from sagan.training import loop

CONFIG = Path(__file__).parents[1] / "configs" / "fashion_mnist.py"
RESULTS = Path(__file__).parent / "results"
SHORT = {  # the rates and the average of configs/digits.py: for minutes, not hours
    "g.width": 16,
    "d.width": 16,
    "optim.g_lr": 4e-4,
    "optim.d_lr": 1e-3,
    "ema.decays": (0.998,),
    "ema.start": 300,
    "run.log_every": 25,
    "run.sample_every": 500,
    "run.checkpoint_every": 250,
}
DISTANCE = "fd_classifier"


def make_config(changes: Mapping[str, Any]) -> Config:
    """A short run of configs/fashion_mnist.py, with changes by dotted name."""
    return config_lib.load(CONFIG, {**SHORT, **changes})


def parse(
    doc: str | None, *, steps: int, seeds: list[int], name: str, **lists: list[Any]
) -> argparse.Namespace:
    """The script's arguments; further ones are lists of integers, or of these words."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, default in {"seeds": seeds, **lists}.items():
        kind = type(default[0])
        known = {"choices": default} if kind is str else {}
        parser.add_argument(
            f"--{option}", type=kind, nargs="+", default=default, **known
        )
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--workdir", type=Path, default=Path("runs", name))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    program_cache.keep_compiled()
    return parser.parse_args()


def train(config: Config, workdir: Path) -> str:
    """Trains, resumes, or does nothing; returns how training diverged, or ""."""
    diverged = workdir / "diverged.txt"
    if diverged.exists():
        return diverged.read_text(encoding="utf-8")
    try:
        state = loop.train(config, workdir)
    except FloatingPointError as error:  # a result, too
        files.write_whole(diverged, str(error))
        return str(error)
    if int(state.step) < config.run.steps:
        raise SystemExit(f"{workdir}: stopped; the same command continues")
    return ""


def prepare(config: Config, samples: int) -> PreparedEvaluation:
    """Reads the test split, and a classifier of the whole training split."""
    data = dataclasses.replace(config.data, split="train")
    config = dataclasses.replace(config, data=data)
    source = open_source(config)
    protocol = Protocol(
        metrics="all,-cas,-fid_infinity,-kid",
        samples=samples,
        split="test",
        features="classifier",
        weights="ema",
        batch_norm="moving",
    )
    return prepare_evaluation(resolve(config, source), protocol, source=source)


def evaluate(
    ready: PreparedEvaluation, workdir: Path, every: int
) -> dict[int, dict[str, float]]:
    """Evaluates the checkpoints at multiples of `every`; the numbers by step.

    There are none if the run diverged before its first checkpoint.
    """
    saved, samples = SavedRun(workdir, read_config(workdir)), ready.samples
    if not (workdir / "checkpoints").exists():
        return {}
    if saved.config.g != samples.config.g:  # another program draws the samples
        how = saved.config, samples.protocol, samples.labels
        samples = generated.open_samples(*how)
    ready = ready._replace(samples=samples._replace(config=saved.config))
    for step in saved.steps("all"):
        if step % every == 0:
            state, _ = saved.load(step)
            evaluate_state(ready, state, workdir / "eval" / f"step_{step}")
    return {
        result["about"]["step"]: {r["metric"]: r["value"] for r in result["results"]}
        for result in results.read_results(workdir / "eval")[0]
    }


def processor() -> str:
    """The name of this machine's processor."""
    info, names = Path("/proc/cpuinfo"), [platform.processor()]
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [x.partition(":")[2].strip() for x in lines if "model name" in x]
    return names[0]


def about(script: str, config: Config, seeds: Iterable[int]) -> str:
    """A line for the head of a results file: setting and machine."""
    data, steps = config.data, config.run.steps
    return (
        f"python benchmarks/{script}.py: {data.name} at {data.size} px, width"
        f" {config.g.width}, batch {data.batch}, {steps} steps, seeds"
        f" {', '.join(map(str, seeds))}; {processor()}"
    )


def publish(out: Path, name: str, text: str, figure: Figure) -> None:
    """Prints the text, and writes it and the figure."""
    print(text)
    files.make_folder(out)
    files.write_whole(out / f"{name}.md", text + "\n")
    figure.savefig(out / f"{name}.png", dpi=120)
