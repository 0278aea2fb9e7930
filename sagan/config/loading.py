"""Config files in Python: read, run, and turned into a checked Config."""

from __future__ import annotations

import contextlib
import pathlib
import runpy
from collections.abc import Iterator, Mapping
from typing import Any

from sagan.config.fields import fields, replace
from sagan.config.schema import Config, ConfigError
from sagan.config.validation import check


def load(
    path: str | pathlib.Path, overrides: Mapping[str, Any] | None = None
) -> Config:
    """The checked Config of a file in `configs/`, with dotted fields replaced.

    Args:
      path: a Python file with a function `config() -> Config`.
      overrides: values by dotted name, such as {"optim.g_lr": 2e-4}.

    Raises:
      ConfigError: the file, a field or a value is wrong.
    """
    names = _run_file(path)
    with _blame(path):
        config = names["config"]()
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: config() must return a sagan.config.Config")
    config = replace(config, {**fields(config), **(overrides or {})})
    check(config)
    return config


def provenance(path: str | pathlib.Path) -> dict[str, str]:
    """Where a config file takes its deviations from the official recipe from."""
    return dict(_run_file(path).get("PROVENANCE", {}))


def _run_file(path: str | pathlib.Path) -> dict[str, Any]:
    path = pathlib.Path(path)
    if not path.is_file():
        near = sorted(str(p) for p in pathlib.Path("configs").glob("*.py"))
        known = f"; there are {', '.join(near)}" if near else ""
        raise ConfigError(f"{path}: no such config file{known}")
    with _blame(path):
        names = runpy.run_path(str(path))
    if not callable(names.get("config")):
        raise ConfigError(f"{path}: has no function config() -> Config")
    return names


@contextlib.contextmanager
def _blame(path: str | pathlib.Path) -> Iterator[None]:
    """Whatever a user's file raises becomes one line that names the file."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
