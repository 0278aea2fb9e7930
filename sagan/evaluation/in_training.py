"""Evaluates a run while it trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sagan.evaluation import results as results_lib
from sagan.evaluation.prepared import prepare_evaluation
from sagan.evaluation.protocol import Protocol
from sagan.evaluation.run import evaluate_state, step_folder
from sagan.evaluation.scoring import Function
from sagan.metrics.features import metric_name
from sagan.runtime import processes
from sagan.runtime.progress import Report
from sagan.state import GANState
from sagan.training.experiment import Experiment


def while_training(
    workdir: Path, *, features: Function | None = None, report: Report = tqdm.write
) -> Any:
    """The `evaluate` of loop.train, for every run.evaluate_every-th step.

    Evaluates the averaged weights (without averages the raw ones) with their running
    statistics into eval/step_N/, by all metrics but the classification accuracy score
    and FID-infinity. The Fréchet distance decides which checkpoint is best. All
    processes take part; the numbers are those of the first, {} in the others.
    """

    def start(experiment: Experiment) -> Callable[[GANState], dict[str, float]]:
        config, _, source = experiment
        protocol = Protocol(
            metrics="all,-cas,-fid_infinity",
            samples=config.run.evaluate_samples,
            weights="ema" if config.ema.decays else "raw",
            batch_norm="moving",
        )
        ready = prepare_evaluation(config, protocol, source=source, features=features)
        tell = report if processes.is_main() else lambda line: None
        main = processes.is_main()  # the others may have no workdir
        before = results_lib.read_results(workdir / "eval")[0] if main else []
        name = "labels of the samples"
        kinds = {str(result["protocol"].get(name)) for result in before}
        for other in kinds - {ready.facts[name]}:
            tell(
                f"run.evaluate_every: {name} were {other} and are {ready.facts[name]}:"
                " the best checkpoint is chosen among both"
            )

        def measure(state: GANState) -> dict[str, float]:
            if int(state.step) % config.run.evaluate_every:
                return {}
            folder = step_folder(workdir, int(state.step))
            result = evaluate_state(ready, state, folder, report=tell)
            if not processes.is_main():
                return {}
            rows = [row for row in result["results"] if "/" not in row["metric"]]
            values = {row["metric"]: row["value"] for row in rows}
            best_by = metric_name("fid", ready.scorer.network)
            return {"metric": values[best_by], **values}

        return measure

    return start
