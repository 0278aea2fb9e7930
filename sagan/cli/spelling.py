"""Other spellings of options that mean the same, and hints for those that don't."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, get_args, get_type_hints

from sagan.config.schema import ConfigError

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


def grouped(args: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each option with the arguments after it; those before the first after ""."""
    groups: list[tuple[str, list[str]]] = [("", [])]
    for arg in args:
        if re.match(r"--|-h$", arg):
            groups.append((arg, []))
        else:
            groups[-1][1].append(arg)
    return groups


def spell(args: Sequence[str], known: Mapping[str, Any], runs: str) -> list[str]:
    """Arguments in the one spelling that tyro reads.

    Args:
      args: Those of the user.
      known: Types of the options by name.
      runs: Name of the positional workdir or workdirs, to which --workdir adds.

    Raises:
      ConfigError: An option is unknown, or its value is spelled in another way.
    """
    workdirs: list[str] = []
    rest: list[str] = []
    for option, values in grouped(args):
        typed, equals, value = option.partition("=")
        values = [value, *values] if equals else values
        if typed in ("--workdir", "--workdirs") and runs:
            workdirs = [*workdirs, *values] if runs == "workdirs" else values
            continue
        if typed not in ("", "-h", "--help"):
            name, typed = _find(typed, known)
            values = list(_spell_values(typed, known[name], values, name == "step"))
        joined = [f"{typed}={values[0]}", *values[1:]] if equals else [typed, *values]
        rest += joined if typed else values
    return workdirs + rest


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


def _spell_values(
    typed: str, kind: Any, values: Sequence[str], is_step: bool
) -> Iterator[str]:
    """The values; 1e5 is a whole number."""
    if kind is bool and values and values[0].lower() in _SWITCHED:
        is_off = bool(re.search(r"(--|\.)no[-_]", typed))
        start, dot, field = re.sub(r"(--|\.)no[-_]", r"\1", typed).rpartition(".")
        on = f"{start}{dot}{field}"
        off = f"{start}.no-{field}" if dot else f"no {on}"
        right = on if _SWITCHED[values[0].lower()] != is_off else off
        raise ConfigError(f"{typed} {values[0]}: is a switch; write {right}")
    numbers = _holds(kind, int) or _holds(kind, float)
    if numbers and any(re.search(r"[][(),]", value) for value in values):
        if not all(map(_WHOLE.fullmatch, values)):
            bare = re.findall(r"[^][(),\s]+", " ".join(values))
            right = " ".join([typed, *bare])
            raise ConfigError(f"{typed} {' '.join(values)}: write {right}")
    for value in values:
        whole = (_holds(kind, int) or is_step) and _WHOLE.fullmatch(value)
        number = Decimal(re.sub("[_,]", "", value)) if whole else None
        yield str(int(number)) if number is not None and number % 1 == 0 else value


def _holds(kind: Any, wanted: type) -> bool:
    return kind is wanted or any(_holds(part, wanted) for part in get_args(kind))
