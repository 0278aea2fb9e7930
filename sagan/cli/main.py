"""The commands: arguments to calls."""

import dataclasses
import difflib
import json
import sys
from pathlib import Path

import sagan
from sagan import config as config_lib
from sagan.cli import visualize
from sagan.cli.arguments import (
    Arguments,
    Flat,
    Parser,
    at_least,
    checkpoint_parser,
    parse_config,
    parse_dataclass,
    parse_train,
    take_price,
)
from sagan.cli.info import info_command
from sagan.cli.run import run
from sagan.config.schema import ConfigError
from sagan.runtime import output, program_cache
from sagan.runtime.progress import printable


def train_command(args: Arguments) -> None:
    """Trains a config, or resumes the run in the workdir."""
    config, workdir = parse_train(args)
    # imports JAX, which takes seconds, after the check of the arguments
    from sagan.runtime import processes
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
    if processes.is_main():
        output.log = folder / "output.log"
    evaluate = None
    if config.run.evaluate_every:
        from sagan.evaluation.run import while_training

        evaluate = while_training(folder)
    loop.train(config, workdir, evaluate=evaluate)


def eval_command(args: Arguments) -> None:
    """Evaluates checkpoints of a run; writes to eval/step_N/ in the workdir."""
    from sagan.evaluation import run
    from sagan.evaluation.protocol import Protocol

    @dataclasses.dataclass(frozen=True)
    class Options:
        workdir: Path
        """Workdir of the run."""
        step: str = "latest"
        """Checkpoint: latest, best, all, or a number."""
        again: bool = False
        """Repeat evaluations that were made with the same protocol."""
        protocol: Flat[Protocol] = Protocol()

    about = eval_command.__doc__
    options = parse_dataclass(Options, args, prog="sagan eval", description=about)
    program_cache.keep_compiled()
    run.evaluate_run(
        options.workdir, options.protocol, steps=options.step, again=options.again
    )


def evaluate_command(args: Arguments) -> None:
    """Compares generated images with real ones, from any folders or .npz files."""
    from sagan.evaluation import image_folders
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

    about = evaluate_command.__doc__
    options = parse_dataclass(Options, args, prog="sagan evaluate", description=about)
    program_cache.keep_compiled()
    image_folders.compare(
        options.fake,
        options.real,
        options.protocol,
        data_path=options.data_path,
        out=options.out,
    )


def table_command(args: Arguments) -> None:
    """Prints one table of evaluated runs; runs that differ in run.seed share a row."""
    parser = Parser(table_command)
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="RUN", help="workdir")
    for name, default, text in (
        ("step", "latest", "latest, best, or the step of an evaluation"),
        ("metrics", "all", "columns, such as is_single,fid,ifid"),
        ("weights", "", "as in eval.py; empty: ema if there is one"),
        ("batch-norm", "moving", "as in eval.py"),
    ):
        parser.add_argument(f"--{name}", default=default, help=f"{text} ({default!r})")
    parser.add_argument("--json", action="store_true", help="JSON, not Markdown")
    options = vars(parser.parse_args(args))
    from sagan.evaluation.table import compare_runs, render_table

    as_json = options.pop("json")
    table = compare_runs(**options)
    print(json.dumps(table, indent=1) if as_json else render_table(table))


def prepare_command(args: Arguments) -> None:
    """Crops and resizes a data set once, and writes it in a few large files."""
    parser = Parser(prepare_command)
    parser.add_argument(
        "name", help="digits, a folder of images, or a name in the TFDS catalogue"
    )
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="folder for prepared data sets"
    )
    parser.add_argument("--path", help="folder of images, if the name is `folder`")
    parser.add_argument(
        "--size", type=int, help="height and width (default: images as they are)"
    )
    formats = "raw (the default, and the fastest to read), png or jpeg"
    parser.add_argument("--format", help=f"{formats}; with --size")
    parser.add_argument("--channels", type=int, default=3, choices=(1, 3))
    for name in ("skip-broken", "allow-small"):
        parser.add_argument(f"--{name}", action="store_true", help="as in training")
    options = parser.parse_args(args)
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


def sample_command(args: Arguments) -> None:
    """Writes samples of a checkpoint, as PNG files or one .npz file."""
    parser = checkpoint_parser(
        sample_command,
        classes="labels to draw, in equal shares (default: all)",
        out="folder for PNG files, or FILE.npz (default: WORKDIR/samples/step_N)",
    )
    parser.add_argument(
        "--n", type=at_least(1), default=64, help="number of images (64)"
    )
    parser.add_argument(
        "--truncation",
        type=float,
        default=0.0,
        help="redraw latents larger than this, such as 0.5 (0: no truncation)",
    )
    parser.add_argument(
        "--batch", type=at_least(1), default=64, help="images at a time (64)"
    )
    options = parser.parse_args(args)
    from sagan.sampling.export import export

    program_cache.keep_compiled()
    print(export(**vars(options)))


def diff_command(args: Arguments) -> None:
    """Prints the fields in which two configs differ, and the source of each value."""
    parser = Parser(diff_command)
    parser.add_argument("a", type=Path, metavar="CONFIG")
    parser.add_argument("b", type=Path, metavar="CONFIG")
    options = parser.parse_args(args)
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


def plan_command(args: Arguments) -> int:
    """Estimates memory, FLOPs and time of a step for hardware you don't have."""
    from sagan.planning import topology

    about = "Estimates a step for other hardware; exit code 1: it does not fit."
    args, price = take_price(args)
    options = "--topology NAME [--price PER_CHIP_HOUR]"
    config, name = parse_config(args, "sagan plan", options, about)
    if name is None:
        raise ConfigError(f"--topology is missing: such as {topology.EXAMPLES}")
    machine = topology.parse(name)
    topology.set_environment(machine)  # before the first import of JAX
    from sagan.planning.plan import plan

    return int(plan(config, machine, price=price) is False)


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
    "table": table_command,
    "diff": diff_command,
    "plan": plan_command,
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
    for known, command in COMMANDS.items():
        lines.append(f"  {known:<10}{(command.__doc__ or '').splitlines()[0]}")
    print(*lines, sep="\n", file=sys.stdout if name else sys.stderr)
    sys.exit(0 if name else 2)
