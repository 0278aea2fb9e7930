"""From a command line to a Config, or to any other dataclass."""

import argparse
import contextlib
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from sagan import config as config_lib
from sagan.config.fields import field_type
from sagan.config.schema import Config, ConfigError

Arguments = Sequence[str]
T = TypeVar("T")
Flat = Annotated[T, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff]


def parse_train(args: Arguments) -> tuple[Config, Path]:
    """The config file with its overrides, and the workdir, of a command line.

    Raises:
      ConfigError: something is missing, unknown or of the wrong type.
      SystemExit: after --help, which lists every field.
    """
    config, workdir = with_config(args, "--workdir")
    if workdir is None:
        raise ConfigError("--workdir DIR is missing: where the run keeps its files")
    return config, Path(workdir)


def with_config(args: Arguments, option: str) -> tuple[Config, str | None]:
    """The config file with its overrides, and one option beside them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, dest="value", nargs="?")
    known, overrides = parser.parse_known_args(list(args))
    named = overrides and not overrides[0].startswith("-")
    path = overrides.pop(0) if named else None
    wants_help = {"-h", "--help"} & set(overrides)
    if path is None and not wants_help:
        raise ConfigError("name a config file first, such as configs/digits.py")
    default = Config() if path is None else config_lib.load(path)
    return override(default, overrides), known.value


def override(default: Config, args: Arguments) -> Config:
    """A checked config with fields set by `--section.field VALUE` arguments."""
    for arg in args:
        name = arg[2:].partition("=")[0]
        if arg.startswith("--") and name != "help":
            field_type(re.sub(r"\.no[-_]", ".", name).replace("-", "_"))
    config = parse(
        Config,
        args,
        default=default,
        prog="train.py CONFIG --workdir DIR",
        description="Trains a Self-Attention GAN; resumes what is in DIR.",
    )
    config_lib.check_config(config)
    return config


def parse(kind: type[T], args: Arguments, **options: Any) -> T:
    """A dataclass from arguments, by tyro.

    Raises:
      ConfigError: they cannot be read; in one line.
      SystemExit: after --help.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=list(args), **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(first_sentence(said.getvalue())) from None


def first_sentence(box: str) -> str:
    """What tyro's message says between its title and its next rule, as one line.

    Titles are in the frame; where the terminal has no such characters, a line with a
    rule of hyphens below.
    """
    lines = [line.strip("│ ") for line in box.splitlines() if line.strip("│ ")]
    rules = [i for i, line in enumerate(lines) if set(line) <= set("─-")]
    start = 1 if lines and lines[0].startswith("╭") else (rules or [-1])[0] + 1
    ends = [i for i in rules if i > start] + [len(lines)]
    said = " ".join(line for line in lines[start : ends[0]] if line[0] not in "╭╰")
    return re.sub(r"\s+", " ", said) or "the command line cannot be read"


def of_a_checkpoint(
    command: Callable[[Arguments], Any], name: str, *, classes: str | None, out: str
) -> argparse.ArgumentParser:
    """A parser with what every command has that draws from a generator.

    Args:
      command: its docstring becomes the description.
      name: of the command, behind `sagan`.
      classes: the help of --classes; None: there is none, and several runs may be
        given, as `workdirs`.
      out: the help of --out.
    """
    parser = argparse.ArgumentParser(prog=f"sagan {name}", description=command.__doc__)
    workdir: Any = {"help": "of the run"}
    if classes is None:
        workdir = {"help": "of one run or of several", "nargs": "+"}
        workdir |= {"dest": "workdirs", "metavar": "DIR"}
    else:
        parser.add_argument("--classes", type=at_least(0), nargs="+", help=classes)
    parser.add_argument("--workdir", type=Path, required=True, **workdir)
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the latents")
    parser.add_argument("--step", type=int, help="of the checkpoint (the newest)")
    parser.add_argument(
        "--weights",
        help="raw, ema, or the decay of one average (default: ema if there is one)",
    )
    parser.add_argument("--out", type=Path, help=out)
    return parser


def at_least(smallest: int) -> Callable[[str], int]:
    """A type for argparse: an integer that is not less."""

    def parse(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{text} is less than {smallest}")
        return value

    return parse
