"""Tables and cards of evaluations."""

import pytest

from sagan.evaluation import card, results
from sagan.metrics.interface import ESTIMATE, UPPER, Baseline


@pytest.fixture
def result():
    result = results.new_result({"samples": 4}, {"what": "x", "step": 1})
    result["class_names"] = ["cat", "dog"]
    baselines = {
        "fid": Baseline(1.0, 4, 9, 0.25, ESTIMATE),
        "ifid/1": Baseline(2.0, 2, 4, None, UPPER),
    }
    raw = {"weights": "raw", "batch_norm": "moving"}
    results.add_rows(result, raw, {"fid": [2.0]}, baselines, 4)
    values = {
        "fid": [3.0, 5.0],
        "kid": [-0.5, -0.5],
        "kid_std": [0.1, 0.1],
        "accuracy": [0.5, 0.5],
        "ifid/0": [7.0, 7.0],
        "ifid/1": [9.0, 9.0],
        "accuracy/0": [1.0, 1.0],
        "accuracy/1": [0.25, 0.25],
        "confused/1/0": [0.75, 0.75],
    }
    ema = {"weights": "ema", "batch_norm": "moving"}
    results.add_rows(result, ema, values, baselines, 4)
    return result


def test_a_table_has_a_column_for_each_variant(result):
    assert card.result_table(result) == [
        ["metric", "raw, moving", "ema, moving", "real against real", "at"],
        ["fid ↓", "2", "4 ± 1.4", "1 ± 0.25", "4 / 9"],
        ["kid ↓", "", "-0.5 ± 0", "", ""],
        ["accuracy ↑", "", "0.5 ± 0", "", ""],
    ]


def test_deviations_within_a_metric_stand_apart(result):
    assert card.result_table(result, spread=True) == [
        ["metric", "raw, moving", "ema, moving"],
        ["kid_std", "", "0.1 ± 0"],
    ]


def test_the_worst_class_comes_first_with_what_it_is_taken_for(result):
    assert card.class_table(result) == [
        ["class", "ifid ↓", "real", "accuracy ↑", "taken for"],
        ["dog", "9 ± 0", "≤ 2", "0.25 ± 0", "cat, 75%"],
        ["cat", "7 ± 0", "", "1 ± 0", ""],
    ]


def test_a_card_explains_what_it_shows_and_nothing_else(result):
    text = card.render_card(result)
    for said in ("KID is biased", "of one class", "a perfect generator", "≤: with"):
        assert said in text
    result["results"] = [row for row in result["results"] if row["metric"] == "fid"]
    text = card.render_card(result)
    for said in ("KID is biased", "≤: ", "## Classes", "## Spread", "`memorisation`"):
        assert said not in text


def test_files_say_what_is_better_and_how_the_numbers_were_made(result):
    directions = {row["metric"]: row.get("better", "") for row in result["results"]}
    assert directions["fid"] == "lower" and directions["accuracy"] == "higher"
    assert directions["kid_std"] == directions["confused/1/0"] == ""
    rows = {row["metric"]: row for row in result["results"]}
    assert rows["fid"]["baseline_reals"] == 9 and rows["fid"]["baseline_std"] == 0.25


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("fd_classifier", "lower"),
        ("ifd_inception/3", "lower"),
        ("fid_infinity", "lower"),
        ("fid_infinity_std", ""),
        ("is_single", "higher"),
        ("improved_recall_rotation", "higher"),
        ("cas", "higher"),
    ],
)
def test_what_is_better(name, direction):
    assert card.better(name) == direction
