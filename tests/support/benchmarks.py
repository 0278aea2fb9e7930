"""The scripts of benchmarks/, which import each other as modules of their folder."""

import importlib
import pathlib
import sys
from types import ModuleType

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    """Imports a script, with the folder on the path meanwhile."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
