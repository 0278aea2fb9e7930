import pathlib
import runpy

import jax
import pytest

from sagan.cli import main
from sagan.config import Config, differences, load, provenance
from sagan.state import initial_state, make_game

ROOT = pathlib.Path(__file__).parents[2]
PRESETS = sorted((ROOT / "configs").rglob("*.py"))
RECIPE = ("g.", "d.", "model.", "optim.", "ema.", "augment.", "reg.")


def name(path):
    return str(path.relative_to(ROOT / "configs"))


def resolved(path):
    config = load(path)
    return load(path, {"data.classes": 10 if config.data.classes is None else 0})


@pytest.mark.parametrize("path", PRESETS, ids=name)
def test_preset_loads_and_builds(path):
    state = jax.eval_shape(lambda: initial_state(make_game(resolved(path))))
    assert state.g.params and state.d.params


@pytest.mark.parametrize("path", PRESETS, ids=name)
def test_preset_says_where_each_deviation_comes_from(path):
    changed = {k for k in differences(Config(), load(path)) if k.startswith(RECIPE)}
    assert changed == set(provenance(path))


@pytest.mark.parametrize("path", PRESETS, ids=name)
def test_preset_begins_with_its_command_and_its_cost(path):
    text = runpy.run_path(str(path))["__doc__"]
    assert f"python train.py {path.relative_to(ROOT)} --workdir" in text
    assert "Cost" in text


def test_diff_prints_values_and_provenance():
    a, b = (ROOT / "configs" / f"official_feat{n}.py" for n in (32, 64))
    assert main.config_diff(a, b).splitlines()[1:] == [
        "g.attention: (32,) -> (64,)",
        "    official_feat64: generator_test_64: official generator.py:221",
        "d.attention: (32,) -> (64,)",
        "    official_feat64: discriminator_test_64: official discriminator.py:208",
    ]
    assert "the same recipe" in main.config_diff(a, a)
