import json

import pytest

from sagan import config as config_lib
from sagan.config import Config, ConfigError, check_config, fields, replace

FILE = """
from sagan.config import Config, DataConfig
PROVENANCE = {"data.size": "here"}
def config():
    return Config(data=DataConfig(size=64, batch=64))
"""


def test_json_gives_the_config_back():
    config = replace(Config(), {"g.attention": [8, 16], "data.classes": 3})
    again = config_lib.from_json(config_lib.to_json(config))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize(("old", "now"), [(False, "none"), (True, "channels")])
def test_tables_of_older_runs_are_read(old, now):
    tree = json.loads(config_lib.to_json(Config()))
    tree["g"]["sn_tables"] = old
    assert config_lib.from_json(json.dumps(tree)).g.sn_tables == now


def test_defaults_are_the_official_recipe():
    values = fields(Config())
    assert values["optim.g_lr"] == 1e-4 and values["optim.d_lr"] == 4e-4
    assert values["optim.betas"] == (0.0, 0.999) and values["optim.eps"] == 1e-8
    assert values["g.attention"] == values["d.attention"] == (32,)
    assert values["g.bn_group"] == 64 and values["g.bn_momentum"] == 0.999
    assert values["ema.decays"] == () and values["optim.d_steps"] == 1
    assert not values["model.sn_detach"] and values["g.sn_tables"] == "none"
    assert values["data.batch"] == 256 and not values["data.flip"]
    check_config(Config())


def test_load_reads_a_file_and_overrides_it(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    config = config_lib.load(path, {"optim.g-lr": 1, "run.steps": 5})
    assert (config.data.size, config.optim.g_lr, config.run.steps) == (64, 1.0, 5)
    assert config_lib.provenance(path) == {"data.size": "here"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no function config"),
        ("def config(): return 3", "must return a sagan.config.Config"),
        ("import nothing_at_all", "ModuleNotFoundError"),
        ("def config(: pass", "SyntaxError"),
        ("from sagan.config import *\ndef config(): return Config(dat=1)", "'dat'"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text, said):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        config_lib.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("size", "g", "d"),
    [
        *[(8, 8, 4), (16, 8, 8), (28, 14, 14), (32, 8, 8), (48, 12, 12), (96, 24, 24)],
        *[(64, 32, 32), (128, 32, 32), (256, 32, 32)],  # the official layer has a place
    ],
)
def test_attention_that_is_not_named_fits_any_size(size, g, d):
    config = config_lib.load("folder", {"data.size": size})
    assert (config.g.attention, config.d.attention) == ((g,), (d,))


def test_attention_that_is_named_stays():
    changes = {"data.size": 48, "d.attention": (6,)}
    assert config_lib.load("folder", changes).d.attention == (6,)
    with pytest.raises(
        ConfigError, match="^g.attention = 32: .* try --g.attention 24$"
    ):
        config_lib.load("folder", {"data.size": 48, "g.attention": (32,)})
    row = config_lib.load("table1/no_attention", {"data.size": 48})
    assert row.g.attention == row.d.attention == ()


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"nope\.py: no such config file"):
        config_lib.load(tmp_path / "nope.py")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("optim.g_lrr", 1.0, "no such field; did you mean optim.g_lr"),
        ("nothing.like.it", 1.0, "no such field"),
        ("optim.g_lr", "fast", "optim.g_lr = 'fast': must be float"),
        ("optim.betas", (0.0,), "optim.betas"),
        ("data.batch", 2.5, "data.batch = 2.5: must be int"),
        ("data.batch", True, "data.batch = True: must be int"),
        ("data.channels", 2, "data.channels = 2"),
        ("run.parallel", "psum", "run.parallel = 'psum'"),
        ("g.attention", 32, "g.attention = 32"),
    ],
)
def test_a_wrong_field_or_type_is_named(name, value, said):
    with pytest.raises(ConfigError, match=said):
        replace(Config(), {name: value})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optim.g_lr": -1.0}, "optim.g_lr = -1.0: must be 0 or more"),
        ({"optim.d_lr": float("nan")}, "optim.d_lr = nan: must be 0 or more"),
        ({"optim.g_lr": float("inf")}, "optim.g_lr = inf"),
        ({"optim.eps": 0.0}, "optim.eps = 0.0: must be more than 0"),
        ({"run.seed": 2**32}, "run.seed = 4294967296"),
        ({"optim.betas": (0.0, 1.0)}, "optim.betas"),
        ({"optim.d_steps": 0}, "optim.d_steps = 0: must be at least 1"),
        ({"ema.decays": (0.9, 1.5)}, "ema.decays"),
        ({"optim.decay_start": 10, "run.steps": 5}, "optim.decay_start"),
        ({"data.classes": -1}, "data.classes"),
        ({"data.size": 33}, "data.size = 33"),
        ({"g.attention": (33,)}, "g.attention = 33"),
        ({"data.batch": 0}, "data.batch = 0"),
        ({"optim.accumulate": 3}, "data.batch = 256: must be divisible"),
        ({"run.profile": "5"}, "run.profile = '5': must be START:STEPS"),
        ({"run.profile": "5:0"}, "run.profile = '5:0': must be START:STEPS"),
        ({"run.profile": "5:101"}, "run.profile = '5:101': must be START:STEPS"),
        ({"run.peak_tflops": -1.0}, "run.peak_tflops = -1.0: must be 0 or more"),
        ({"reg.lecam": -1.0}, "reg.lecam = -1.0: must be 0 or more"),
        ({"reg.r1_interval": 0}, "reg.r1_interval = 0: must be at least 1"),
        (
            {"reg.consistency_real": 1.0, "reg.consistency_policy": ""},
            "reg.consistency_policy = '': must name",
        ),
        ({"g.sn_tables": "channels", "g.sn": False}, "'channels': needs g.sn"),
        ({"g.bn_group": 100}, "g.bn_group = 100: must divide"),
        ({"g.bn_group": 0, "optim.accumulate": 2}, "g.bn_group = 0"),
        ({"model.attention_chunks": -1}, "model.attention_chunks = -1: must be 0 or"),
        ({"model.attention_chunks": 3}, "= 3: must divide the 1024 positions of g.att"),
        ({"g.width": 4, "g.attention": (128,)}, "g.width = 4"),
        ({"d.freeze": -1}, "d.freeze = -1: must be 0 to 6, the number"),
        ({"d.freeze": 7}, "d.freeze = 7: must be 0 to 6, the number"),
    ],
)
def test_an_impossible_value_is_named_with_what_is_allowed(values, said):
    with pytest.raises(ConfigError, match=said):
        check_config(replace(Config(), values))


def test_all_problems_are_told_at_once():
    values = {"data.size": 33, "optim.g_lr": -1.0, "data.batch": 7}
    with pytest.raises(ConfigError) as error:
        check_config(replace(Config(), values))
    assert len(str(error.value).splitlines()) == 3


def test_differences_name_fields_and_both_values():
    other = replace(Config(), {"data.size": 64})
    assert config_lib.differences(Config(), other) == {"data.size": (128, 64)}
