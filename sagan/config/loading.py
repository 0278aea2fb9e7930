"""Loads config files, which are Python."""

from __future__ import annotations

import contextlib
import pathlib
import runpy
from collections.abc import Iterator, Mapping
from typing import Any

from sagan.config.fields import fields, replace
from sagan.config.schema import Config, ConfigError
from sagan.config.validation import check_config


def load(
    path: str | pathlib.Path, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Runs a config file and checks its config.

    Args:
      path: A Python file with a function `config() -> Config`, as in `configs/`.
      overrides: Values by dotted name, such as {"optim.g_lr": 2e-4}.

    Raises:
      ConfigError: The file, a field or a value is wrong.
    """
    names = _run_file(path)
    with _naming_file(path):
        config = names["config"]()
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: config() must return a sagan.config.Config")
    config = replace(config, {**fields(config), **(overrides or {})})
    check_config(config)
    return config


def provenance(path: str | pathlib.Path) -> dict[str, str]:
    """The source of each deviation from the official recipe, by dotted name."""
    return dict(_run_file(path).get("PROVENANCE", {}))


def _run_file(path: str | pathlib.Path) -> dict[str, Any]:
    path = pathlib.Path(path)
    if not path.is_file():
        near = sorted(str(p) for p in pathlib.Path("configs").glob("*.py"))
        known = f"; there are {', '.join(near)}" if near else ""
        raise ConfigError(f"{path}: no such config file{known}")
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
