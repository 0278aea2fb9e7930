"""Reading command lines: dataclasses by tyro, and mistakes as one line."""

import argparse
import contextlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from sagan.schema import ConfigError

Arguments = Sequence[str]
T = TypeVar("T")


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


def at_least(smallest: int) -> Callable[[str], int]:
    """A type for argparse: an integer that is not less."""

    def parse(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{text} is less than {smallest}")
        return value

    return parse
