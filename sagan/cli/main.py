"""The commands: arguments to calls."""

import dataclasses
import difflib
import math
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

import sagan
from sagan import config as config_lib
from sagan.cli import visualize
from sagan.cli.arguments import OPTIONS, CheckpointOptions, ConfigFields, command
from sagan.cli.evaluate import (
    eval_command,
    evaluate_command,
    statistics_command,
    table_command,
)
from sagan.cli.info import info_command
from sagan.cli.run import run
from sagan.cli.weights import export_command, import_command
from sagan.config.schema import Config, ConfigError
from sagan.runtime import output, program_cache
from sagan.runtime.progress import printable


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of `sagan train`."""

    workdir: str = ""
    """Where the run keeps its files; also as the second argument. May be gs://..."""
    config: ConfigFields = Config()


@command(lambda: TrainOptions)
def train_command(options: TrainOptions) -> None:
    """Trains a config, or resumes the run in the workdir."""
    config, workdir = options.config, options.workdir
    # imports JAX, which takes seconds, after the check of the arguments
    from sagan.runtime import memory, processes
    from sagan.runtime.transfers import local_folder
    from sagan.training import loop

    folder = local_folder(workdir, config.run.local_dir)
    if config.run.compilation_cache:
        program_cache.keep_compiled(config.run.compilation_cache_dir)
    config = processes.initialize(
        config,
        "restart all of them with the same command: they resume from the newest"
        f" checkpoint in {workdir}",
    )
    memory.run_on_this_thread()
    if processes.is_main():
        output.log = folder / "output.log"
    evaluate = None
    if config.run.evaluate_every:
        from sagan.evaluation.in_training import while_training

        evaluate = while_training(folder)
    loop.train(config, workdir, evaluate=evaluate)


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """Options of `sagan prepare`."""

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """digits, a folder of images, or a name in the TFDS catalogue."""
    data_dir: Path
    """Folder for prepared data sets; also as --out."""
    path: str | None = None
    """Folder of images, if the name is `folder`."""
    size: int | None = None
    """Height and width. None: images as they are."""
    format: str | None = None
    """raw (the default, and the fastest to read), png or jpeg; with --size."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: colour."""
    skip_broken: bool = False
    """As in training."""
    allow_small: bool = False
    """As in training."""


@command(lambda: PrepareOptions)
def prepare_command(options: PrepareOptions) -> None:
    """Crops and resizes a data set once, and writes it in a few large files."""
    from sagan.data.prepare import prepare

    names = ("channels", "skip_broken", "allow_small")
    settings = config_lib.DataConfig(**{name: getattr(options, name) for name in names})
    made = prepare(
        options.name,
        options.data_dir,
        options.path,
        size=options.size,
        format=options.format,
        settings=settings,
        report=print,
    )
    counts = ", ".join(f"{name} {count}" for name, count in made.splits.items())
    size = f" --data.size {options.size}" if options.size else ""
    print(
        f"{made.path}: {counts}; train with --data.name {made.name}"
        f" --data.path {made.path}{size}"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleOptions(CheckpointOptions):
    """Options of `sagan sample`."""

    n: int = 64
    """Number of images."""
    truncation: float = 0.0
    """Redraw latents larger than this, such as 0.5; 0: no truncation."""
    batch: int | None = None
    """Images at a time. None: 64; with --batch-norm batch the run's data.batch."""
    batch_norm: Literal["moving", "standing", "batch"] = "moving"
    """Batch statistics: running averages, recomputed ones, or those of each batch."""
    out: Path | None = None
    """Folder for PNG files, FILE.npz, or FILE.png or .jpg: one image, or a grid of
    several. None: WORKDIR/samples/step_N."""


@command(lambda: SampleOptions)
def sample_command(options: SampleOptions) -> None:
    """Writes samples of a checkpoint: PNG files, one picture, or one .npz file."""
    from sagan.sampling.export import export

    program_cache.keep_compiled()
    print(export(**options.with_labels()))


@dataclasses.dataclass(frozen=True)
class DiffOptions:
    """Options of `sagan diff`."""

    a: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="CONFIG")]]
    """A recipe or a config file."""
    b: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="CONFIG")]]
    """Another."""


@command(lambda: DiffOptions)
def diff_command(options: DiffOptions) -> None:
    """Prints the fields in which two configs differ, and the source of each value."""
    print(config_diff(options.a, options.b))


def config_diff(a: Path, b: Path) -> str:
    """A line for each field in which two config files differ, with provenance."""
    sources = [config_lib.provenance(path) for path in (a, b)]
    changes = config_lib.differences(config_lib.load(a), config_lib.load(b))
    if not changes:
        return f"{a} and {b} are the same recipe"
    lines = [f"{a} -> {b}"]
    for name, values in changes.items():
        lines.append(f"{name}: {values[0]!r} -> {values[1]!r}")
        for path, source in zip((a, b), sources, strict=True):
            if name in source:
                lines.append(f"    {path.stem}: {source[name]}")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Options of `sagan plan`."""

    topology: str = ""
    """Hardware, such as v5e:2x4, gpu:8x80GiB or cpu."""
    price: float = 0.0
    """Price of a chip for an hour, such as 1.2; 0: unknown."""
    config: ConfigFields = Config()


@command(lambda: PlanOptions)
def plan_command(options: PlanOptions) -> int:
    """Estimates memory, FLOPs and time of a step for hardware you don't have."""
    from sagan.planning import topology

    if not 0 <= options.price < math.inf:
        raise ConfigError(f"--price {options.price:g}: must be 0 or more, such as 1.2")
    if not options.topology:
        raise ConfigError(f"--topology is missing: such as {topology.EXAMPLES}")
    machine = topology.parse(options.topology)
    topology.set_environment(machine)  # before the first import of JAX
    from sagan.planning.plan import plan

    return int(plan(options.config, machine, price=options.price or None) is False)


@dataclasses.dataclass(frozen=True)
class CompletionOptions:
    """Options of `sagan completion`."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "tcsh"]]
    """The shell."""


@command(lambda: CompletionOptions)
def completion_command(options: CompletionOptions) -> None:
    """Prints a script with which a shell completes commands and options."""
    kinds = {name: tyro.conf.configure()(OPTIONS[name]()) for name in COMMANDS}
    args = ["--tyro-print-completion", options.shell]
    tyro.extras.subcommand_cli_from_dict(kinds, prog="sagan", args=args)


# in the order of a user's first days
COMMANDS = {
    "prepare": prepare_command,
    "train": train_command,
    "info": info_command,
    "sample": sample_command,
    "report": visualize.report_command,
    "sheets": visualize.sheets_command,
    "attend": visualize.attend_command,
    "eval": eval_command,
    "evaluate": evaluate_command,
    "statistics": statistics_command,
    "table": table_command,
    "diff": diff_command,
    "plan": plan_command,
    "import": import_command,
    "export": export_command,
    "completion": completion_command,
}


def main() -> None:
    """The console script `sagan`, and `python -m sagan`."""
    name, *args = sys.argv[1:] or [""]
    if name in COMMANDS:
        sys.exit(run(COMMANDS[name], args))
    if name == "--version":
        sys.exit(print(f"sagan {sagan.__version__}"))
    if name and name not in ("-h", "--help"):
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = (
            f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        )
        print(f"error: {printable(name)}: no such command; {hint}", file=sys.stderr)
        sys.exit(2)
    lines = ["usage: sagan COMMAND ...; `sagan COMMAND --help` lists the options"]
    for known, act in COMMANDS.items():
        lines.append(f"  {known:<11}{(act.__doc__ or '').splitlines()[0]}")
    print(*lines, sep="\n", file=sys.stdout if name else sys.stderr)
    sys.exit(0 if name else 2)
