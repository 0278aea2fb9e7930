"""Loads config files, which are Python."""

from __future__ import annotations

import contextlib
import difflib
import pathlib
import runpy
from collections.abc import Iterator, Mapping
from typing import Any

from sagan.config.architecture import fit_attention
from sagan.config.fields import fields, replace
from sagan.config.schema import Config, ConfigError
from sagan.config.validation import check_config

RECIPES = pathlib.Path(__file__).parents[1] / "recipes"  # a link to configs/


def load(
    path: str | pathlib.Path, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Runs a config file and checks its config.

    Args:
      path: A Python file with a function `config() -> Config`, or a shipped recipe:
        "digits", "table1/attention8", or its path in `configs/`.
      overrides: Values by dotted name, such as {"optim.g_lr": 2e-4}.

    Raises:
      ConfigError: The file, a field or a value is wrong.
    """
    values = {
        name.replace("-", "_"): value for name, value in (overrides or {}).items()
    }
    config = fit_attention(replace(read(path), values), named=values)
    check_config(config)
    return config


def read(path: str | pathlib.Path) -> Config:
    """The config of a file as it is, its values not yet checked."""
    names = _run_file(path)
    with _naming_file(path):
        config = names["config"]()
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: config() must return a sagan.config.Config")
    return replace(config, fields(config))


def provenance(path: str | pathlib.Path) -> dict[str, str]:
    """The source of each deviation from the official recipe, by dotted name."""
    return dict(_run_file(path).get("PROVENANCE", {}))


def recipes() -> list[str]:
    """Names of the shipped recipes, such as "digits" and "table1/attention8"."""
    paths = sorted(RECIPES.glob("*.py")) + sorted(RECIPES.glob("*/*.py"))
    return [str(path.relative_to(RECIPES).with_suffix("")) for path in paths]


def find(path: str | pathlib.Path) -> pathlib.Path:
    """The file of a config: the path itself, else the recipe of this name.

    Raises:
      ConfigError: There is neither.
    """
    if pathlib.Path(path).is_file():
        return pathlib.Path(path)
    name, known = str(path).removeprefix("configs/").removesuffix(".py"), recipes()
    if name in known:
        return RECIPES / f"{name}.py"
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"recipes: {', '.join(known)}"
    raise ConfigError(f"{path}: no such config file or recipe; {hint}")


def _run_file(path: str | pathlib.Path) -> dict[str, Any]:
    path = find(path)
    with _naming_file(path):
        names = runpy.run_path(str(path))
    if not callable(names.get("config")):
        raise ConfigError(f"{path}: has no function config() -> Config")
    return names


@contextlib.contextmanager
def _naming_file(path: str | pathlib.Path) -> Iterator[None]:
    """Turns any error of a user's file into one line that names the file."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
