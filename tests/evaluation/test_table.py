"""Several evaluated runs in one table, with planted numbers."""

import json
import statistics
import types

import pytest

from sagan.checkpoints import bucket_copy
from sagan.checkpoints.workdir import claim
from sagan.cli import main
from sagan.config import ConfigError
from sagan.evaluation import results
from sagan.evaluation.table import compare_runs, render_table
from sagan.metrics import METRICS
from sagan.metrics.interface import Baseline

PROTOCOL = {"samples": 40, "reals": 60, "real split": "digits, train"}
PROTOCOL |= {"features": "classifier"}
BASELINES = {
    "fd_classifier": Baseline(0.5, 30, 60),
    "is_classifier": Baseline(9.5, 30, 60),
}
RAW = {"weights": "raw", "batch_norm": "moving"}
EMA = {"weights": "ema 0.5", "batch_norm": "moving"}


@pytest.fixture
def plant(tmp_path, tiny, monkeypatch):
    """Leaves a run with an evaluation of some numbers, in the current folder."""
    monkeypatch.chdir(tmp_path)

    def make(name, values, step=6, protocol=PROTOCOL, variants=(EMA,), **changes):
        workdir = tmp_path / name
        claim(workdir, tiny(**changes), images=100, class_names=list("0123456789"))
        about = {"what": name, "step": step}
        result = results.new_result(protocol, about)
        for variant in variants:
            each = {metric: [value] for metric, value in values.items()}
            results.add_rows(result, variant, each, BASELINES, protocol["samples"])
        results.write_result(workdir / "eval" / f"step_{step}", result)
        return workdir.relative_to(tmp_path)

    return make


def cells(markdown):
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_seeds_of_a_recipe_share_a_row_of_mean_and_sample_deviation(plant):
    plain = [
        plant(f"plain{seed}", {"fd_classifier": value}, run__seed=seed)
        for seed, value in enumerate([1.0, 2.0, 6.0])  # mean 3, variance (4+1+9)/2 = 7
    ]
    other = plant("other", {"fd_classifier": 8.0}, g__attention=(), run__log_every=5)
    table = compare_runs([plain[0], other, *plain[1:]])
    first, second = table["rows"]
    assert first["recipe"] == {"g.attention": (8,)}  # neither seed nor intervals
    value = first["values"]["fd_classifier"]
    assert value == {
        "value": 3.0,
        "std": pytest.approx(7**0.5),
        "n": 3,
        "each": [1.0, 2.0, 6.0],
    }
    assert value["std"] == pytest.approx(statistics.stdev(value["each"]))
    assert second["values"]["fd_classifier"] == {"value": 8.0, "n": 1, "each": [8.0]}
    runs = [(run["workdir"], run["seed"], run["step"]) for run in first["runs"]]
    assert runs == [("plain0", 0, 6), ("plain1", 1, 6), ("plain2", 2, 6)]


def test_a_run_in_a_bucket_is_shown_by_its_url(plant, monkeypatch):
    run = plant("copy", {"fd_classifier": 1.0})
    copy = types.SimpleNamespace(url="gs://bucket/run")
    monkeypatch.setitem(bucket_copy._copies, run / "checkpoints", copy)
    (row,) = compare_runs([run])["rows"]
    assert (row["name"], row["runs"][0]["workdir"]) == (copy.url, copy.url)


def test_markdown_by_hand(plant):
    values = {"accuracy_classifier": 0.5, "ifd_classifier": 7, "fd_classifier": 1.0}
    values |= {"is_classifier": 9.0, "is_std_classifier": 0.25, "cas": 0.125}
    runs = [
        plant("a", values, d__attention=(), run__seed=0),
        plant("b", {**values, "fd_classifier": 3.0}, d__attention=(), run__seed=1),
        plant("c", {**values, "fd_classifier": 4.0}, step=5),
    ]
    assert render_table(compare_runs(runs)) == "\n".join(
        [
            "| run | weights | seeds | step | is_classifier ↑ | fd_classifier ↓ |"
            " ifd_classifier ↓ | accuracy_classifier ↑ | cas ↑ |",
            "|" + 9 * " --- |",
            "| d.attention=() | ema 0.5, moving | 2 | 6 | 9 ± 0 | 2 ± 1.4 | 7 ± 0 |"
            " 0.5 ± 0 | 0.125 ± 0 |",
            "| d.attention=(4,) | ema 0.5, moving | 1 | 5 | 9 | 4 | 7 | 0.5 | 0.125 |",
            "| real against real |  |  |  | 9.5 | 0.5 |  |  |  |",
            "",
            "samples: 40; reals: 60; real split: digits, train; features: classifier;"
            " ±: sample standard deviation over seeds",
        ]
    )


def test_inception_numbers_come_in_the_order_of_the_papers_table(plant):
    values = {"cas": 0.5, "ifid": 90.0, "fid": 18.65, "is_single": 52.52, "is": 50.0}
    run = plant("a", values, protocol={**PROTOCOL, "features": "inception"})
    assert list(compare_runs([run])["better"]) == [
        *["is", "is_single", "fid", "ifid", "cas"]
    ]


def test_chosen_metrics_are_the_columns_in_their_order(plant):
    run = plant("a", {"fd_classifier": 1.0, "cas": 0.5, "is_classifier": 2.0})
    table = compare_runs([run], metrics="cas,fid")  # or fd_classifier
    assert table["better"] == {"cas": "higher", "fd_classifier": "lower"}
    assert list(table["baseline"]) == ["fd_classifier"]
    assert [*table["rows"][0]["values"]] == ["cas", "fd_classifier"]


def test_less_is_better_of_distances_alone():
    lower = {name for name, metric in METRICS.items() if metric.distance}
    assert lower == {"fid", "fid_infinity", "kid", "ifid"}


def test_a_metric_that_some_runs_lack_says_of_how_many_it_is_the_mean(plant):
    runs = [
        plant("a", {"cas": 0.25, "fd_classifier": 1.0}, run__seed=0),
        plant("b", {"cas": 0.5}, run__seed=1),
        plant("c", {"cas": 0.75}, g__attention=()),
    ]
    table = compare_runs(runs)
    value = table["rows"][0]["values"]["fd_classifier"]
    assert value == {"value": 1.0, "n": 1, "each": [1.0, None]}
    rows = cells(render_table(table))
    assert rows[0][4:] == ["fd_classifier ↓", "cas ↑"]
    assert rows[2][4:] == ["1 (1 of 2)", "0.375 ± 0.18"]
    assert rows[3][4:] == ["", "0.75"]


def test_rows_are_named_by_workdirs_if_nothing_or_too_much_differs(plant):
    one = plant("one", {"cas": 1.0}, run__seed=0)
    seeds = [one, plant("two", {"cas": 0.0}, run__seed=1)]
    far = {"g__width": 16, "d__width": 16, "g__z": 5, "g__attention": ()}
    unlike = plant("unlike", {"cas": 0.5}, **far, d__attention=())
    assert compare_runs([one, one])["rows"][0]["name"] == "one"
    assert compare_runs(seeds)["rows"][0]["name"] == "one, two"
    names = [row["name"] for row in compare_runs([*seeds, unlike])["rows"]]
    assert names == ["one, two", "unlike"]


def test_runs_of_other_lengths_are_other_recipes(plant):
    runs = [plant(f"{n}", {"cas": 1.0}, run__steps=n, run__seed=n) for n in (6, 7)]
    names = [row["name"] for row in compare_runs(runs)["rows"]]
    assert names == ["run.steps=6", "run.steps=7"]


def test_weights_are_the_averages_unless_chosen(plant):
    both = plant("both", {"cas": 1.0}, variants=(RAW, EMA))
    bare = plant("bare", {"cas": 0.5}, variants=(RAW,), ema__decays=())
    rows = compare_runs([both, bare])["rows"]
    assert [row["weights"] for row in rows] == ["ema 0.5, moving", "raw, moving"]
    rows = compare_runs([both], weights="both")["rows"]
    assert [row["weights"] for row in rows] == ["raw, moving", "ema 0.5, moving"]


def test_the_newest_evaluation_counts_unless_a_step_is_chosen(plant, monkeypatch):
    for step, value in ((9, 0.9), (10, 1.0), (2, 0.2)):
        run = plant("a", {"cas": value}, step=step)
    monkeypatch.setattr("sagan.checkpoints.restore.SavedRun.steps", lambda *_: [9])

    def shown(step):
        (row,) = compare_runs([run], step=step)["rows"]
        return row["runs"][0]["step"], row["values"]["cas"]["value"]

    assert shown("latest") == (10, 1.0)
    assert shown("2") == (2, 0.2)
    assert shown("best") == (9, 0.9)


def test_the_steps_of_a_row_are_all_named(plant):
    runs = [
        plant("a", {"cas": 0.9}, step=6, run__seed=0),
        plant("b", {"cas": 0.8}, step=4, run__seed=1),
    ]
    assert cells(render_table(compare_runs(runs)))[2][3] == "4, 6"


def test_the_command_prints_what_is_computed(plant, capsys):
    run = plant("a", {"fd_classifier": 1.0, "cas": 0.5})
    assert main.run(main.COMMANDS["table"], [str(run)]) == 0
    table = compare_runs([run])
    assert capsys.readouterr().out == render_table(table) + "\n"
    assert main.run(main.COMMANDS["table"], [str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == table
    assert table["protocol"] == PROTOCOL and "jax" in table["versions"]


def test_a_mistake_is_one_line(plant, tmp_path, tiny, monkeypatch):
    run = plant("a", {"fd_classifier": 1.0})
    same = plant("same", {"fd_classifier": 1.0})
    raw = plant("raw", {"fd_classifier": 1.0}, variants=(RAW,))
    bare = tmp_path / "bare"
    claim(bare, tiny(), images=100, class_names=list("0123456789"))
    few = plant("few", {"fd_classifier": 1.0}, protocol={**PROTOCOL, "samples": 20})
    monkeypatch.setattr(results, "versions", lambda: {"jax": "0.1"})
    old = plant("old", {"fd_classifier": 1.0})
    for said, workdirs, options in (
        ("nope: holds no run", [run, bare / "nope"], {}),
        ("that can be read; to evaluate it: sagan eval", [bare], {}),
        ("--metrics x: unknown; there are fd_classif", [run], {"metrics": "fid,x"}),
        ("a and few: cannot be compared, because their evaluations differ in samples;",
         [run, few], {}),
        ("a and old: cannot be compared, because their evaluations differ in",
         [run, old], {}),
        ("a and same: have the same recipe and run.seed 0", [run, same], {}),
        ("--step 7: must be latest, best, or of a one of 6", [run], {"step": "7"}),
        ("a: has no checkpoint yet", [run], {"step": "best"}),
        ("--weights 0.9: unknown; there are raw", [run], {"weights": "0.9"}),
        ("--batch-norm x: unknown", [run], {"batch_norm": "x"}),
        ("raw: step 6 was not evaluated with (ema 0.5, moving), only with (raw,"
         " moving); see --weights", [raw], {}),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            compare_runs(workdirs, **options)
        assert said in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_evaluation_is_not_shown(plant, capsys):
    run = plant("a", {"cas": 0.5}, step=1)
    newer = run / "eval" / "step_2"
    newer.mkdir()
    (newer / "results.json").write_text('{"results": [{"metric": 3}]}')
    assert compare_runs([run])["rows"][0]["runs"][0]["step"] == 1
    (run / "eval" / "step_1" / "results.json").write_text("{")
    assert main.run(main.COMMANDS["table"], [str(run)]) == 2
    said = capsys.readouterr().err
    assert "no evaluation that can be read" in said and said.count("\n") == 1
