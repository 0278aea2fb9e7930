"""Fields of a config by dotted name: get, replace, compare, convert to JSON."""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sagan.config.schema import Config, ConfigError


def fields(config: Config) -> dict[str, Any]:
    """All values by dotted name, in the order of the schema."""
    return {
        f"{section}.{field}": value
        for section, inner in vars(config).items()
        for field, value in vars(inner).items()
    }


def replace(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy with other values by dotted name; dashes count as underscores.

    Raises:
      ConfigError: A field is unknown, or its value has the wrong type.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        name = name.replace("-", "_")
        kind = field_type(name)
        section, _, field = name.partition(".")
        sections.setdefault(section, {})[field] = _coerce(name, value, kind)
    return dataclasses.replace(
        config,
        **{
            section: dataclasses.replace(getattr(config, section), **changes)
            for section, changes in sections.items()
        },
    )


def field_type(name: str) -> Any:
    """The type of a field by dotted name; an unknown one is a ConfigError."""
    known = fields(Config())
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "--help lists every field"
        raise ConfigError(f"{name}: no such field; {hint}")
    section, _, field = name.partition(".")
    section_type = get_type_hints(Config)[section]
    return get_type_hints(section_type)[field]


def _coerce(name: str, value: Any, kind: Any) -> Any:
    """Converts 1 to 1.0 and [] to (), which JSON and config files may contain."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value in args:
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        variadic = args[-1] is Ellipsis
        if variadic or len(value) == len(args):
            return tuple(_coerce(name, item, args[0]) for item in value)
    elif origin is not None and type(None) in args:
        if value is None:
            return None
        return _coerce(name, value, args[0])
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind:
        return value
    allowed = getattr(kind, "__name__", "") if origin is None else str(kind)
    raise ConfigError(f"{name} = {value!r}: must be {allowed.replace('typing.', '')}")


def to_json(config: Config) -> str:
    """The config as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The inverse of to_json."""
    return from_tree(json.loads(text))


def from_tree(tree: Mapping[str, Mapping[str, Any]]) -> Config:
    """A config from the values of each section by name; others have their defaults."""
    values = {
        f"{section}.{field}": value
        for section, inner in tree.items()
        for field, value in inner.items()
    }
    if type(tables := values.get("g.sn_tables")) is bool:  # written before 0.3
        values["g.sn_tables"] = "channels" if tables else "none"
    return replace(Config(), values)


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Both values of each field in which two configs differ."""
    other = fields(b)
    return {k: (v, other[k]) for k, v in fields(a).items() if v != other[k]}
