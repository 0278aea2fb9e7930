"""From command lines to configs and options.

Every command's options are the fields of a dataclass, from which tyro takes them with
their help. A mistake is a ConfigError of one line.
"""

import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from sagan import config as config_lib
from sagan.checkpoints.workdir import read_config
from sagan.cli.spelling import NO_WORKDIR, joined, option_types, reads_runs, spell
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
_OF_CONFIG = ("--data.", "--run.", "--data-path", "--data_path")  # checked with it


def check_paths(
    first: Arguments, options: Sequence[Arguments], known: Collection[str]
) -> None:
    """Raises a ConfigError if an argument is a path elsewhere, such as s3://bucket/a.

    Python would take it for a folder of this machine, called `s3:`. Runs may be in
    buckets of Google Cloud Storage, and so may the paths of a config that say so.
    """
    has_runs = not {"workdir", "workdirs"}.isdisjoint(known)
    for option, *values in [("", *first), *options]:
        is_run = has_runs and option in ("", "--workdir")
        for value in values:
            of_config = option.startswith(_OF_CONFIG)
            if not (of_config or is_local(value) or is_run and is_bucket(value)):
                named = f"{option} {value}".lstrip()
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
            kind, about = options(), function.__doc__ or ""
            known = option_types(kind)
            first, rest = spell(args, known)
            check_paths(first, rest, known)
            with contextlib.ExitStack() as stack:
                if reads_runs(known) and any(map(is_bucket, first)):
                    from sagan.checkpoints.bucket_copy import copied  # imports JAX

                    args = joined(stack.enter_context(copied(first, print)), rest)
                return function(parse(kind, args, f"sagan {name}", about))

        return act

    return decorate


def parse(kind: type[T], args: Arguments, prog: str, about: str = "") -> T:
    """The options of a command. If they hold a config, its file or recipe comes first.

    Raises:
      ConfigError: An argument is missing, unknown or of the wrong type.
      SystemExit: After --help.
    """
    known = option_types(kind)
    first, rest = spell(args, known)
    usage = {"prog": prog, "description": about}
    if "run.steps" in known:
        return _parse_with_config(kind, first, rest, "workdir" in known, usage)
    if "workdir" in known and len(first) > 1:
        raise ConfigError(f"{' '.join(first)}: must be a single workdir")
    marks = (tyro.conf.FlagCreatePairsOff,)
    options = parse_dataclass(kind, joined(first, rest), config=marks, **usage)
    if getattr(options, "workdirs", None) == ():
        raise ConfigError(f"a workdir is missing; see `{prog} --help`")
    for name, least in _LEAST.items():
        value = getattr(options, name, None)
        if value is not None and value < least:
            raise ConfigError(f"--{name} {value}: must be at least {least}")
    return options


def _parse_with_config(
    kind: Any, first: Arguments, rest: list[list[str]], has_workdir: bool, usage: Any
) -> Any:
    """Options with a config: its file comes first, the workdir second or by option."""
    places = ["CONFIG", "WORKDIR"][: 1 + has_workdir]
    given = {option[2:].replace("-", "_") for option, *_ in rest}
    if len(first) > len(places) - ("workdir" in given):
        hint = "--workdir names one" if "workdir" in given else "options begin with --"
        raise ConfigError(f"{first[-1]}: unexpected; {hint}")
    rest += [["--workdir", path] for path in first[1:]]
    start = loading.read(first[0]) if first else _config_of_run(rest)
    if start is None and {"", "help"}.isdisjoint(given):
        raise ConfigError("name a recipe or a config file first, such as digits")
    start = start or Config()
    usage["prog"] = " ".join([usage["prog"], *places])
    args = joined([], rest)
    parsed = parse_dataclass(kind, args, default=kind(config=start), **usage)
    config = fit_attention(parsed.config, given)
    config_lib.check_config(config)
    if has_workdir and not parsed.workdir:
        raise ConfigError(NO_WORKDIR)
    if moved := config_lib.differences(parsed.config, config):
        places = ", ".join(f"{name} = {now}" for name, (_, now) in moved.items())
        print(f"data.size = {config.data.size}: attention moves from 32 to {places}")
    return dataclasses.replace(parsed, config=config)


def _config_of_run(options: Sequence[Arguments]) -> Config | None:
    """The config of the run in the workdir that is named, if there is a run."""
    named = (option[1] for option in options if option[0] == "--workdir")
    workdir = Path(next(named, ""))
    return read_config(workdir) if (workdir / "config.json").is_file() else None


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
