"""From command lines to configs and options.

The fields of a config or a protocol are options by themselves: tyro takes them, with
their help, from the dataclass. All other options are argparse's. Either way a mistake
is a ConfigError of one line.
"""

import argparse
import contextlib
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import tyro

from sagan import config as config_lib
from sagan.config.fields import field_type
from sagan.config.schema import Config, ConfigError
from sagan.config.validation import is_bucket, is_local

Arguments = Sequence[str]
Command = Callable[[Arguments], int | None]
T = TypeVar("T")
Flat = Annotated[T, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff]


_LOCAL = ("--out", "--fake", "--real", "--data-dir", "--path")  # never in a bucket


def may_be_bucket(option: str, value: str) -> bool:
    """Whether an argument, after an option, may be a run in a bucket."""
    return is_bucket(value) and option not in _LOCAL


def check_paths(args: Arguments) -> None:
    """Raises a ConfigError if an argument is a path elsewhere, such as s3://bucket/a.

    Python would take it for a folder of this machine, called `s3:`. Runs may be in
    buckets of Google Cloud Storage, and so may the paths of a config that say so.
    """
    option = ""
    for arg in args:
        option, _, value = (
            arg.partition("=") if arg.startswith("--") else (option, "", arg)
        )
        of_config = option.startswith(("--data.", "--run."))  # checked with the config
        if not (is_local(value) or may_be_bucket(option, value) or of_config):
            named = f"{option} {value}" if option.startswith("--") else value
            raise ConfigError(
                f"{named}: must be a path on this machine, without a scheme"
            )


def parse_train(args: Arguments) -> tuple[Config, str]:
    """The config and the workdir from the arguments of train.py.

    Raises:
      ConfigError: An argument is missing, unknown or of the wrong type.
      SystemExit: After --help, which lists every field.
    """
    about = "Trains a Self-Attention GAN, or resumes the run in DIR."
    config, workdir = parse_config(args, "sagan train", "--workdir DIR", about)
    if workdir is None:
        raise ConfigError("--workdir DIR is missing: where the run keeps its files")
    return config, workdir


def parse_config(
    args: Arguments, command: str, option: str, about: str
) -> tuple[Config, str | None]:
    """A config file with overrides, and the value of one more option."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option.split()[0], dest="value", nargs="?")
    known, overrides = parser.parse_known_args(list(args))
    named = overrides and not overrides[0].startswith("-")
    path = overrides.pop(0) if named else None
    wants_help = {"-h", "--help"} & set(overrides)
    if path is None and not wants_help:
        raise ConfigError("name a recipe or a config file first, such as digits")
    config = Config() if path is None else config_lib.load(path)
    usage = {"prog": f"{command} CONFIG {option}", "description": about}
    return override(config, overrides, **usage), known.value


def take_price(args: Arguments) -> tuple[list[str], float | None]:
    """The arguments without --price, and its value.

    Raises:
      ConfigError: It is not a number of 0 or more.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--price", nargs="?", const="")
    known, others = parser.parse_known_args(list(args))
    if known.price is None:
        return others, None
    with contextlib.suppress(ValueError):
        if 0 <= (price := float(known.price)) < math.inf:
            return others, price
    raise ConfigError(
        f"--price {known.price}: must be the price of a chip for an hour, such as 1.2"
    )


def override(config: Config, args: Arguments, **usage: str) -> Config:
    """A checked copy with fields set by arguments, `--section.field VALUE`."""
    for arg in args:
        name = arg[2:].partition("=")[0]
        if arg.startswith("--") and name != "help":
            field_type(re.sub(r"\.no[-_]", ".", name).replace("-", "_"))
    config = parse_dataclass(Config, args, default=config, **usage)
    config_lib.check_config(config)
    return config


def parse_dataclass(kind: type[T], args: Arguments, **options: Any) -> T:
    """A dataclass from arguments, by tyro.

    Raises:
      ConfigError: The arguments cannot be parsed.
      SystemExit: After --help.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(kind, args=list(args), **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(message_in(printed.getvalue())) from None


def message_in(box: str) -> str:
    """The message in tyro's box as one line, without its title and hints.

    The title is in the frame or, on a terminal without such characters, a line with a
    rule of hyphens below it.
    """
    lines = [line.strip("│ ") for line in box.splitlines() if line.strip("│ ")]
    rules = [i for i, line in enumerate(lines) if set(line) <= set("─-")]
    start = 1 if lines and lines[0].startswith("╭") else (rules or [-1])[0] + 1
    ends = [i for i in rules if i > start] + [len(lines)]
    said = " ".join(line for line in lines[start : ends[0]] if line[0] not in "╭╰")
    return re.sub(r"\s+", " ", said) or "the command line cannot be read"


class Parser(argparse.ArgumentParser):
    """The parser of `sagan NAME`, for the function NAME_command and its docstring."""

    def __init__(self, command: Command):
        name = command.__name__.removesuffix("_command")
        super().__init__(f"sagan {name}", description=command.__doc__)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def checkpoint_parser(command: Command, *, classes: str | None, out: str) -> Parser:
    """A parser with the options of commands that draw from a checkpoint.

    Args:
      command: The function of the command.
      classes: Help of --classes. None: the command has no such option and takes
        several runs, as `workdirs`.
      out: Help of --out.
    """
    parser = Parser(command)
    workdir: Any = {"help": "workdir of the run", "metavar": "DIR"}
    if classes is None:
        workdir |= {"help": "workdirs of one or more runs", "nargs": "+"}
        workdir |= {"dest": "workdirs"}
    else:
        parser.add_argument("--classes", type=at_least(0), nargs="+", help=classes)
    parser.add_argument("--workdir", type=Path, required=True, **workdir)
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="seed of the latents (0)"
    )
    parser.add_argument("--step", type=int, help="checkpoint (default: the newest)")
    parser.add_argument(
        "--weights",
        help="raw, ema, or the decay of one average (default: ema if there is one)",
    )
    parser.add_argument("--out", type=Path, help=out)
    return parser


def at_least(smallest: int) -> Callable[[str], int]:
    """A type for argparse: integers from `smallest` on."""

    def parse_integer(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{text} is less than {smallest}")
        return value

    return parse_integer
