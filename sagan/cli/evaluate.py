"""The commands that evaluate: eval, evaluate, statistics, table."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import tyro

from sagan import config as config_lib
from sagan.cli.arguments import DataPath, Flat, Workdir, Workdirs, command
from sagan.config.schema import Config
from sagan.runtime import program_cache


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which of several processes this is, as in training."""

    coordinator: str = ""
    """HOST:PORT of process 0, if several evaluate together; TPU hosts need none."""
    processes: int | None = None
    """Number of processes."""
    process: int | None = None
    """Number of this process, from 0."""


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
        run: Processes = Processes()
        protocol: Flat[Protocol] = Protocol()

    return Options


@command(_eval_options)
def eval_command(options: Any) -> None:
    """Evaluates checkpoints of a run; writes to eval/step_N/ in the workdir."""
    from sagan.evaluation import run
    from sagan.runtime import processes

    program_cache.keep_compiled()
    joined = {f"run.{name}": value for name, value in vars(options.run).items()}
    config = config_lib.replace(Config(), joined)
    config_lib.check_config(config)
    processes.initialize(config, "restart all of them with the same command")
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
        """Real ones: the same, NAME[:SPLIT], such as digits or cifar10:test, or an .npz
        file of statistics (mu, sigma)."""
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
class StatisticsOptions:
    """Options of `sagan statistics`."""

    data: tyro.conf.Positional[str]
    """Real images: a folder, an .npz file, or NAME[:SPLIT]."""
    out: Path
    """The .npz file to write."""
    size: int = 0
    """Height and width of a data set's images, in pixels."""
    channels: Literal[1, 3] = 3
    """Channels of a data set's images."""
    data_path: str = ""
    """Location of the data set, like data.path in a config."""
    reals: int = 0
    """Number of images at most, in an order that never changes; 0: all."""
    features: str = "auto"
    """As in `sagan evaluate`."""
    weights_file: Path | None = None
    """As in `sagan evaluate`."""
    resize: str = "tf1"
    """As in `sagan evaluate`."""


@command(lambda: StatisticsOptions)
def statistics_command(options: StatisticsOptions) -> None:
    """Writes mean and covariance of real images' features, an .npz for --reference."""
    from sagan.evaluation import image_folders
    from sagan.evaluation.protocol import Comparison

    program_cache.keep_compiled()
    shared = {field.name for field in dataclasses.fields(Comparison)}
    values = {k: v for k, v in vars(options).items() if k != "data"}
    chosen = {name: values.pop(name) for name in shared & values.keys()}
    image_folders.write_statistics(options.data, Comparison(**chosen), **values)


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
