"""Trains and evaluates several settings with several seeds; a library of the scripts.

A run that was stopped is resumed; neither finished runs nor evaluations are repeated.
All runs are compared with the same reals by the same classifier.
"""

import dataclasses
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sagan import config as config_lib
from sagan.checkpoints.restore import SavedRun
from sagan.checkpoints.workdir import read_config
from sagan.config import Config
from sagan.data.pipeline import open_source, resolve
from sagan.evaluation import generated, results
from sagan.evaluation.protocol import Protocol
from sagan.evaluation.run import (
    PreparedEvaluation,
    evaluate_state,
    prepare_evaluation,
)
from sagan.runtime import cache
from sagan.training import loop

CONFIG = Path(__file__).parents[1] / "configs" / "fashion_mnist.py"
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


def train(config: Config, workdir: Path) -> str:
    """Trains, resumes, or does nothing; returns why training ended early, or ""."""
    stopped = workdir / "diverged.txt"
    if stopped.exists():
        return stopped.read_text(encoding="utf-8")
    try:
        loop.train(config, workdir)
    except FloatingPointError as error:  # a result, too
        stopped.write_text(str(error), encoding="utf-8")
        return str(error)
    return ""


def prepare(config: Config, samples: int) -> PreparedEvaluation:
    """Reads the whole test split, and a classifier trained on the training split."""
    cache.keep_compiled()
    data = dataclasses.replace(config.data, split="train")
    source = open_source(dataclasses.replace(config, data=data))
    config = resolve(dataclasses.replace(config, data=data), source)
    protocol = Protocol(
        metrics="all,-cas,-fid_infinity,-kid",
        samples=samples,
        split="test",
        features="classifier",
        weights="ema",
        batch_norm="moving",
    )
    return prepare_evaluation(config, protocol, source=source)


def evaluate(ready: PreparedEvaluation, workdir: Path, steps: str) -> None:
    """Evaluates checkpoints of a run: "latest" or "all"."""
    saved, samples = SavedRun(workdir, read_config(workdir)), ready.samples
    if saved.config.g != samples.config.g:
        how = saved.config, samples.protocol, samples.labels
        ready = ready._replace(samples=generated.open_samples(*how))
    for step in saved.steps(steps):
        state, step = saved.load(step)
        evaluate_state(ready, state, workdir / "eval" / f"step_{step}")


def curve(workdir: Path, metric: str) -> dict[int, float]:
    """Values of a metric over the evaluated steps."""
    found, _ = results.read_results(workdir / "eval")
    return {
        result["about"]["step"]: row["value"]
        for result in found
        for row in result["results"]
        if row["metric"] == metric
    }


def findings(workdir: Path) -> list[dict[str, Any]]:
    """The lines of monitor.jsonl."""
    path = workdir / "monitor.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def about(script: str, config: Config, seeds: Iterable[int]) -> str:
    """A line for the head of a results file: setting and machine."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    data, steps = config.data, config.run.steps
    return (
        f"python benchmarks/{script}: {data.name} at {data.size} px, width"
        f" {config.g.width}, batch {data.batch}, {steps} steps, seeds"
        f" {', '.join(map(str, seeds))}; {cpu}"
    )
