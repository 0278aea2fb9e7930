"""The commands that evaluate: eval, evaluate, table."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from sagan.cli.arguments import DataPath, Flat, Workdir, Workdirs, command
from sagan.runtime import program_cache


def _eval_options() -> Any:
    from sagan.evaluation.protocol import Protocol

    @dataclasses.dataclass(frozen=True)
    class Options:
        workdir: Workdir
        """Workdir of the run; also as --workdir."""
        step: str = "latest"
        """Checkpoint: latest, best, all, or a number."""
        again: bool = False
        """Repeat evaluations that were made with the same protocol."""
        save_samples: bool = False
        """Keep the samples as .npz files beside the results."""
        save_features: bool = False
        """Keep the features of the samples."""
        data_path: DataPath = ""
        protocol: Flat[Protocol] = Protocol()

    return Options


@command(_eval_options)
def eval_command(options: Any) -> None:
    """Evaluates checkpoints of a run; writes to eval/step_N/ in the workdir."""
    from sagan.evaluation import run

    program_cache.keep_compiled()
    kinds = {"samples": options.save_samples, "features": options.save_features}
    keep = [kind for kind, wanted in kinds.items() if wanted]
    choices = {"again": options.again, "keep": keep, "data_path": options.data_path}
    run.evaluate_run(options.workdir, options.protocol, steps=options.step, **choices)


def _evaluate_options() -> Any:
    from sagan.evaluation.protocol import Comparison

    @dataclasses.dataclass(frozen=True)
    class Options:
        fake: Path
        """Generated images: a folder or an .npz file."""
        real: str
        """Real ones: the same, or NAME[:SPLIT], such as digits or cifar10:test."""
        data_path: str = ""
        """Location of the data set, like data.path in a config."""
        out: Path = Path("evaluation")
        """Folder for results.json and card.md."""
        protocol: Flat[Comparison] = Comparison()

    return Options


@command(_evaluate_options)
def evaluate_command(options: Any) -> None:
    """Compares generated images with real ones, from any folders or .npz files."""
    from sagan.evaluation import image_folders

    program_cache.keep_compiled()
    places = {"data_path": options.data_path, "out": options.out}
    image_folders.compare(options.fake, options.real, options.protocol, **places)


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """Options of `sagan table`."""

    workdirs: Workdirs
    """Workdirs of evaluated runs; also as --workdir."""
    step: str = "latest"
    """latest, best, or the step of an evaluation."""
    metrics: str = "all"
    """Columns, such as is_single,fid,ifid."""
    weights: str = ""
    """As in `sagan eval`; empty: ema if there is one."""
    batch_norm: str = "moving"
    """As in `sagan eval`."""
    json: bool = False
    """JSON, not Markdown."""


@command(lambda: TableOptions)
def table_command(options: TableOptions) -> None:
    """Prints one table of evaluated runs; runs that differ in run.seed share a row."""
    from sagan.evaluation.table import compare_runs, render_table

    choices: dict[str, Any] = {k: v for k, v in vars(options).items() if k != "json"}
    table = compare_runs(**choices)
    print(json.dumps(table, indent=1) if options.json else render_table(table))
