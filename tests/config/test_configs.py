import pathlib
import runpy

import jax
import pytest

from sagan.cli import main
from sagan.config import Config, differences, load, provenance
from sagan.state import abstract, count, initial_state, make_game

ROOT = pathlib.Path(__file__).parents[2]
PRESETS = sorted((ROOT / "configs").rglob("*.py"))
RECIPE = tuple("g. d. model. optim. rule. ema. augment. reg.".split())


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


@pytest.mark.parametrize(
    ("name", "classes", "g", "d"),
    [  # as logged by StudioGAN; the networks of the other two are the same
        ("studiogan_cifar10", 10, 4_386_308, 1_075_586),
        ("mmgen_cifar10", 10, 4_386_308, 1_075_586),
        ("studiogan_tiny", 200, 13_387_396, 19_752_642),
        ("studiogan_imagenet128", 1000, 42_017_412, 39_448_258),
        ("biggan_pytorch_sagan", 1000, 42_017_412, 39_448_258),
        ("mmgen_imagenet128", 1000, 42_017_412, 39_448_258),
    ],
)
def test_peers_have_as_many_parameters_as_they_say(name, classes, g, d):
    state = abstract(load(f"peers/{name}", {"data.classes": classes}))
    assert (count(state.g.params), count(state.d.params)) == (g, d)


def test_cifar10_names_everything_in_which_studiogan_differs():
    ours, theirs = load("cifar10"), load("peers/studiogan_cifar10")
    assert set(differences(ours, theirs)) == {
        *("data.flip", "g.sn_tables", "g.bn_eps", "g.bn_unbiased"),
        *("d.rectified_shortcut", "model.init", "model.sn_eps", "model.sn_clamp"),
        *("optim.eps", "rule.d_passes", "rule.g_step_moves_d"),
        *("rule.d_step_moves_averages", "ema.decays", "ema.start"),
    }  # a new one belongs in the docstring of configs/cifar10.py too


def test_diff_prints_values_and_provenance():
    a, b = (ROOT / "configs" / f"official_feat{n}.py" for n in (32, 64))
    assert main.config_diff(a, b).splitlines()[1:] == [
        "g.attention: (32,) -> (64,)",
        "    official_feat64: generator_test_64: official generator.py:221",
        "d.attention: (32,) -> (64,)",
        "    official_feat64: discriminator_test_64: official discriminator.py:208",
    ]
    assert "the same recipe" in main.config_diff(a, a)
