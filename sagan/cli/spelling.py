"""Other spellings of options that mean the same, and hints for those that don't."""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, get_args, get_origin, get_type_hints

from sagan.config.schema import ConfigError

NO_WORKDIR = "--workdir DIR is missing: where the run keeps its files"
_SAME = (  # names of one thing: each command takes them all, and knows one
    {"n", "samples"},
    {"path", "data_path", "data.path"},
    {"data_dir", "out"},
    {"size", "data.size"},
    {"channels", "data.channels"},
)
_SWITCHED = {"true": True, "yes": True, "on": True, "1": True}
_SWITCHED |= {"false": False, "no": False, "off": False, "0": False}
_WHOLE = re.compile(r"\d+(\.\d+)?e\+?\d{1,2}|\d{1,3}([_,]\d{3})+", re.IGNORECASE)


def option_types(kind: Any, prefix: str = "") -> dict[str, Any]:
    """Types of the options of a dataclass by name, with underscores."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        bare = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        if dataclasses.is_dataclass(bare):  # an annotated one adds no prefix
            found |= option_types(bare, "" if bare is not hint else f"{name}.")
        else:
            found[prefix + name] = bare
    return found


def reads_runs(known: Mapping[str, Any]) -> bool:
    """Whether a command's arguments of no option are workdirs."""
    return "run.steps" not in known and ("workdir" in known or "workdirs" in known)


def joined(first: Iterable[str], options: Iterable[Sequence[str]]) -> list[str]:
    """The two parts of `spell` as one list; a value may begin with a hyphen."""
    each = (("=".join(o),) if len(o) == 2 else o for o in options)
    return [*first, *itertools.chain(*each)]


def spell(
    args: Sequence[str], known: Mapping[str, Any]
) -> tuple[list[str], list[list[str]]]:
    """Arguments in the one spelling: those of no option, and each option with its own.

    What follows the value of an option that takes one belongs to no option.

    Args:
      args: Those of the user.
      known: Types of the options by name.

    Raises:
      ConfigError: An option is unknown, its value is spelled in another way, or a
        workdir or an output is given twice or empty.
    """
    first: list[str] = []
    options: list[list[str]] = []
    once: set[str] = set()
    for option, values in _grouped(args):
        typed, equals, value = option.partition("=")
        values = [value, *values] if equals else values
        is_workdir = typed in ("--workdir", "--workdirs")
        if is_workdir and not any(values):
            raise ConfigError(NO_WORKDIR)
        if typed in ("-h", "--help"):
            options.append([typed])
        elif typed and not (is_workdir and reads_runs(known)):
            name, typed = _find(typed, known)
            if name in once:
                raise ConfigError(f"{typed}: is given twice")
            once |= {name} & {"workdir", "out", "data_dir"}
            kind = known[name]
            if kind is bool and values and (equals or values[0].lower() in _SWITCHED):
                raise ConfigError(_right_switch(typed, values[0]))
            count = len(values) if get_origin(kind) is tuple else int(kind is not bool)
            own = _spell_values(typed, kind, values[:count], name == "step")
            options.append([typed, *own])
            values = values[count:]
        first += values
    return first, options


def _grouped(args: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each option with the arguments after it; those before the first after ""."""
    groups: list[tuple[str, list[str]]] = [("", [])]
    for arg in args:
        if re.match(r"--|-h$", arg):
            groups.append((arg, []))
        else:
            groups[-1][1].append(arg)
    return groups


def _find(typed: str, known: Mapping[str, Any]) -> tuple[str, str]:
    """The name of an option, and its spelling."""
    name = typed.removeprefix("--").replace("-", "_")
    positive = re.sub(r"(^|\.)no_", r"\1", name)
    for other in (name, positive):
        if other in known:
            return other, typed
    for other in (other for same in _SAME if name in same for other in same):
        if other in known:
            return other, "--" + other.replace("_", "-")
    takes = [*known, *(n for same in _SAME for n in same if same & known.keys())]
    near = difflib.get_close_matches(name, takes, n=1, cutoff=0.5)
    spelled = "--" + near[0].replace("_", "-") if near else ""
    hint = f"did you mean {spelled}?" if near else "--help lists every option"
    raise ConfigError(f"{typed}: no such option; {hint}")


def _right_switch(typed: str, value: str) -> str:
    is_off = bool(re.search(r"(--|\.)no[-_]", typed))
    start, dot, field = re.sub(r"(--|\.)no[-_]", r"\1", typed).rpartition(".")
    right = f"write {start}{dot}{field}"
    if _SWITCHED.get(value.lower(), True) == is_off:
        right = f"write {start}.no-{field}" if dot else f"leave out {field}"
    return f"{typed} {value}: is a switch without a value; {right}"


def _spell_values(
    typed: str, kind: Any, values: Sequence[str], is_step: bool
) -> Iterator[str]:
    """The values; 1e5 is a whole number."""
    numbers = _holds(kind, int) or _holds(kind, float)
    if numbers and any(re.search(r"[][(),]", value) for value in values):
        if get_origin(kind) is tuple or not all(map(_WHOLE.fullmatch, values)):
            bare = re.findall(r"[^][(),\s]+", " ".join(values))
            right = " ".join([typed, *bare])
            raise ConfigError(f"{typed} {' '.join(values)}: write {right}")
    for value in values:
        if (_holds(kind, int) or is_step) and _WHOLE.fullmatch(value):
            number = Decimal(re.sub("[_,]", "", value))
            if number == number.to_integral_value():
                value = str(int(number))
        yield value


def _holds(kind: Any, wanted: type) -> bool:
    return kind is wanted or any(_holds(part, wanted) for part in get_args(kind))
