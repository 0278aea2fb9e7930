"""The command line: arguments to calls, mistakes to one line and exit code 2."""

import argparse
import dataclasses
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from sagan import config as config_lib
from sagan.cli import visualize as look
from sagan.cli.arguments import (
    Arguments,
    Flat,
    at_least,
    of_a_checkpoint,
    parse,
    parse_train,
    with_config,
)
from sagan.config.schema import ConfigError
from sagan.runtime import cache, exit_message


def run(command: Callable[[Arguments], int | None], args: Arguments) -> int:
    """Calls a command; returns its exit code.

    0 if it gives none, 2 after a user's mistake, 3 if training diverged, else 1.
    """
    try:
        code = _exit_code(command, args)
    except Exception:
        if not exit_message.armed():
            raise
        traceback.print_exc()  # then at once: the others wait for this process
        code = 1
    exit_message.disarm(code)
    return code


def _exit_code(command: Callable[[Arguments], int | None], args: Arguments) -> int:
    try:
        return command(args) or 0
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:  # diverged: the same again would, too
        print(f"error: {error}", file=sys.stderr)
        return 3
    except OSError as error:  # the disk
        print(f"error: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            line = str(error).splitlines()[0]
            print(f"error: {line}\n{_LESS_MEMORY}", file=sys.stderr)
            return 1
        if not (type(error).__name__ == "JaxRuntimeError" and exit_message.armed()):
            raise
        # most likely another process's end, as seen from here
        print(f"error: {error}", file=sys.stderr)
        exit_message.exit_and_print()
    except KeyboardInterrupt:
        return 130


_LESS_MEMORY = (
    "the device's memory is too small: try --model.attention-chunks 16, --model.remat,"
    " --model.dtype bfloat16, --optim.accumulate 2 (with a --g.bn_group that divides"
    " the micro-batch) or a smaller --data.batch; `sagan plan` tells beforehand"
)


def train_command(args: Arguments) -> None:
    """CONFIG --workdir DIR [--section.field VALUE ...]: see `train.py --help`."""
    config, workdir = parse_train(args)
    from sagan.runtime import processes  # JAX starts only for a right command line
    from sagan.training import loop  # JAX starts only for a right command line

    if config.run.compilation_cache:
        cache.keep_compiled()
    config = processes.initialize(
        config,
        f"start all of them again with the same command: they go on from the newest"
        f" checkpoint in {workdir}",
    )
    evaluate = None
    if config.run.evaluate_every:
        from sagan.evaluation.run import while_training

        evaluate = while_training(workdir)
    loop.train(config, workdir, evaluate=evaluate)


def diff_command(args: Arguments) -> None:
    """CONFIG CONFIG: the fields in which two recipes differ, and where from."""
    parser = argparse.ArgumentParser(
        prog="sagan diff", description=diff_command.__doc__
    )
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    paths = parser.parse_args(args)
    print(config_diff(paths.a, paths.b))


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


def prepare_command(args: Arguments) -> None:
    """NAME --data-dir DIR: write a data set as array_record, to train from."""
    parser = argparse.ArgumentParser(
        prog="sagan prepare", description=prepare_command.__doc__
    )
    parser.add_argument("name", help="digits, folder, or a TFDS catalogue name")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--path", help="the folder of images, for `folder`")
    known = parser.parse_args(args)
    from sagan.data.prepare import prepare

    made = prepare(known.name, known.data_dir, known.path)
    counts = ", ".join(f"{name} {count}" for name, count in made.splits.items())
    print(
        f"{made.path}: {counts}; train with --data.name {made.name}"
        f" --data.path {known.data_dir}"
    )


def sample_command(args: Arguments) -> None:
    """--workdir DIR [--n N ...]: write samples of a checkpoint as PNGs or .npz."""
    parser = of_a_checkpoint(
        sample_command,
        "sample",
        classes="labels to draw, in equal shares (default: all)",
        out="a folder for PNGs, or a file.npz (default: WORKDIR/samples/step_N)",
    )
    parser.add_argument("--n", type=at_least(1), default=64, help="images (64)")
    parser.add_argument(
        "--truncation",
        type=float,
        default=0.0,
        help="draw latents beyond this again, such as 0.5 (0: none)",
    )
    parser.add_argument("--batch", type=at_least(1), default=64, help="at once (64)")
    known = parser.parse_args(args)
    from sagan.sampling.export import export

    cache.keep_compiled()
    print(export(**vars(known)))


def eval_command(args: Arguments) -> None:
    """--workdir DIR [--step N ...]: see `eval.py --help`."""
    from sagan.evaluation import run
    from sagan.evaluation.protocol import Protocol

    @dataclasses.dataclass(frozen=True)
    class Asked:
        workdir: Path
        """Of the run."""
        step: str = "latest"
        """Of the checkpoint: latest, best, all, or a number."""
        again: bool = False
        """Evaluate also what was evaluated with the same protocol."""
        protocol: Flat[Protocol] = Protocol()

    about = "Evaluates checkpoints; leaves eval/step_N/ in the workdir."
    asked = parse(Asked, args, prog="eval.py", description=about)
    cache.keep_compiled()
    run.evaluate_run(asked.workdir, asked.protocol, steps=asked.step, again=asked.again)


def evaluate_command(args: Arguments) -> None:
    """--fake DIR|NPZ --real DIR|NPZ|NAME[:SPLIT] [...]: compare any images."""
    from sagan.evaluation import image_folders
    from sagan.evaluation.protocol import Comparison

    @dataclasses.dataclass(frozen=True)
    class Asked:
        fake: Path
        """A folder of images or an .npz file."""
        real: str
        """The same, or a data set as NAME[:SPLIT], such as digits or cifar10:test."""
        data_path: str = ""
        """Where the data set lies, as data.path of a config."""
        out: Path = Path("evaluation")
        """The folder for results.json and card.md."""
        protocol: Flat[Comparison] = Comparison()

    about = "Compares generated images with real ones."
    asked = parse(Asked, args, prog="sagan evaluate", description=about)
    cache.keep_compiled()
    image_folders.compare(
        asked.fake, asked.real, asked.protocol, data_path=asked.data_path, out=asked.out
    )


def plan_command(args: Arguments) -> int:
    """CONFIG --topology v5e:2x4 [...]: what a step takes there; code 1: does not fit.

    Code 0 where it fits, and where nothing installed can tell.
    """
    from sagan.planning import topology

    config, name = with_config(args, "--topology")
    if name is None:
        raise ConfigError(f"--topology is missing: such as {topology.EXAMPLES}")
    machine = topology.parse(name)
    topology.prepare(machine)  # before JAX starts
    from sagan.planning.plan import plan

    return int(plan(config, machine) is False)


COMMANDS = {
    "prepare": prepare_command,
    "sample": sample_command,
    "attend": look.attend_command,
    "sheets": look.sheets_command,
    "report": look.report_command,
    "diff": diff_command,
    "evaluate": evaluate_command,
    "plan": plan_command,
}


def main() -> None:
    """The console script `sagan`."""
    args = sys.argv[1:]
    if not args or args[0] not in COMMANDS:
        lines = [
            f"  sagan {name} {(f.__doc__ or '').splitlines()[0]}"
            for name, f in COMMANDS.items()
        ]
        print("usage:\n" + "\n".join(lines), file=sys.stderr)
        sys.exit(0 if args and args[0] in ("-h", "--help") else 2)
    sys.exit(run(COMMANDS[args[0]], args[1:]))
