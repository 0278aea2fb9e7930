"""From command lines to configs and options.

Every command's options are the fields of a dataclass, from which tyro takes them with
their help. A mistake is a ConfigError of one line.
"""

import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from sagan import config as config_lib
from sagan.cli.spelling import grouped, option_types, spell
from sagan.config import loading
from sagan.config.architecture import fit_attention
from sagan.config.schema import Config, ConfigError
from sagan.config.validation import is_bucket, is_local

Arguments = Sequence[str]
Command = Callable[[Arguments], int | None]
T = TypeVar("T")
Flat = Annotated[T, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff]
ConfigFields = Annotated[Config, tyro.conf.arg(name="")]
Workdir = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="WORKDIR")]]
Workdirs = tyro.conf.Positional[
    Annotated[tuple[Path, ...], tyro.conf.arg(metavar="WORKDIR")]
]
_NOW = "Where the run's data are now. Empty: where they were during training."
DataPath = Annotated[str, tyro.conf.arg(aliases=("--data.path",), help=_NOW)]
OPTIONS: dict[str, Callable[[], Any]] = {}  # of each command, by name
_LEAST = {"n": 1, "batch": 1, "seed": 0}

_LOCAL = ("--out", "--fake", "--real", "--data-dir", "--path")  # never in a bucket
_OF_CONFIG = ("--data.", "--run.", "--data-path", "--data_path")  # checked with it


def may_be_bucket(option: str, value: str) -> bool:
    """Whether an argument, after an option, may be a run in a bucket."""
    return is_bucket(value) and not option.startswith(_LOCAL + _OF_CONFIG)


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
        of_config = option.startswith(_OF_CONFIG)
        if not (is_local(value) or may_be_bucket(option, value) or of_config):
            named = f"{option} {value}" if option.startswith("--") else value
            raise ConfigError(
                f"{named}: must be a path on this machine, without a scheme"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """Options of the commands that draw from checkpoints."""

    step: str = "latest"
    """Checkpoint: latest, best, or a number."""
    weights: str = ""
    """raw, ema, or the decay of one average. Empty: ema if there is one."""
    seed: int = 0
    """Seed of the latents."""
    out: Path | None = None
    """Where to write. None: into the workdir."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions(DrawingOptions):
    """Options of the commands that draw from a checkpoint of one run."""

    workdir: Workdir
    """Workdir of the run; also as --workdir."""
    classes: tuple[str, ...] = ()
    """Names or labels of the classes to draw. Empty: all, or a few of them."""

    def with_labels(self) -> dict[str, Any]:
        """All options by name; the classes by label, None for an empty `classes`."""
        from sagan.checkpoints.restore import find_labels

        return vars(self) | {"classes": find_labels(self.workdir, self.classes)}


def command(
    options: Callable[[], type[T]],
) -> Callable[[Callable[[T], int | None]], Command]:
    """Makes NAME_command(options) take arguments; its docstring is the help.

    `options` returns the dataclass of the options: it may import what takes seconds.
    """

    def decorate(function: Callable[[T], int | None]) -> Command:
        name = function.__name__.removesuffix("_command")
        OPTIONS[name] = options

        @functools.wraps(function)
        def act(args: Arguments) -> int | None:
            about = function.__doc__ or ""
            return function(parse(options(), args, f"sagan {name}", about))

        return act

    return decorate


def parse(kind: type[T], args: Arguments, prog: str, about: str = "") -> T:
    """The options of a command. If they hold a config, its file or recipe comes first.

    Raises:
      ConfigError: An argument is missing, unknown or of the wrong type.
      SystemExit: After --help.
    """
    known = option_types(kind)
    runs = next((name for name in ("workdir", "workdirs") if name in known), "")
    if "run.steps" in known:
        return _parse_with_config(kind, args, known, prog, about)
    marks = (tyro.conf.FlagCreatePairsOff,)
    args = spell(args, known, runs)
    options = parse_dataclass(kind, args, prog=prog, description=about, config=marks)
    if runs and getattr(options, runs) == ():
        raise ConfigError(f"a workdir is missing; see `{prog} --help`")
    for name, least in _LEAST.items():
        value = getattr(options, name, None)
        if value is not None and value < least:
            raise ConfigError(f"--{name} {value}: must be at least {least}")
    return options


def _parse_with_config(
    kind: Any, args: Arguments, known: dict[str, Any], prog: str, about: str
) -> Any:
    """Options with a config: its file comes first, the workdir second or by option."""
    (_, first), *groups = grouped(args)
    places = ["CONFIG", "WORKDIR"] if "workdir" in known else ["CONFIG"]
    for option, values in groups:  # --workdir DIR CONFIG
        if option == "--workdir" and len(values) > 1 and not first:
            first.append(values.pop())
    if len(first) > len(places):
        raise ConfigError(f"{first[-1]}: unexpected; options begin with --")
    rest = [arg for option, values in groups for arg in (option, *values)]
    if len(first) > 1:
        rest += ["--workdir", first[1]]
    wants_help = not {"-h", "--help"}.isdisjoint(rest)
    if not first and not wants_help:
        raise ConfigError("name a recipe or a config file first, such as digits")
    start = loading.read(first[0]) if first else Config()
    usage = {"prog": " ".join([prog, *places]), "description": about}
    if rest[-1:] == ["--workdir"]:
        rest.pop()
    args = spell(rest, known, "")
    options = parse_dataclass(kind, args, default=kind(config=start), **usage)
    given = {option.partition("=")[0][2:].replace("-", "_") for option, _ in groups}
    options = dataclasses.replace(options, config=fit_attention(options.config, given))
    config_lib.check_config(options.config)
    if "workdir" in known and not options.workdir:
        raise ConfigError("--workdir DIR is missing: where the run keeps its files")
    return options


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
