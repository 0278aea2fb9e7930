"""From a workdir to heat maps, and to what is lost without attention."""

import json
import pathlib
import re
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image, ImageColor

from sagan.checkpoints.manager import Checkpoints
from sagan.checkpoints.restore import open_run
from sagan.checkpoints.workdir import claim
from sagan.cli import main
from sagan.cli.visualize import attend_command
from sagan.config import ConfigError
from sagan.data import pipeline
from sagan.evaluation import results, run, scoring
from sagan.evaluation.protocol import Protocol, protocol_to_json
from sagan.metrics.features import of_callable
from sagan.sampling import layout, sampler
from sagan.sampling.attention_maps import AttentionGrid
from sagan.visualization import ablation, attention_reading, heatmaps
from tests.support import planted

TIMES = layout.enlargement(8, heatmaps.SIDE)
OPPOSITE = np.arange(16)[::-1]


@pytest.fixture(scope="module")
def workdir(tiny, tmp_path_factory):
    config = tiny(**planted.CONFIG)
    workdir = tmp_path_factory.mktemp("planted") / "run"
    claim(workdir, config, images=1493, class_names=list("0123456789"))
    checkpoints = Checkpoints(workdir / "checkpoints", keep=2)
    checkpoints.save(7, planted.state(config, OPPOSITE, gamma=-0.5))
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def drawn(workdir, tmp_path_factory):
    """The folder, and what was said."""
    out, said = tmp_path_factory.mktemp("attend") / "new", []
    opened = open_run(workdir)
    heatmaps.attend(
        opened,
        np.array([4, 8, 4], np.int32),
        heatmaps.choose_layers(opened.config, None, real=True),
        seed=1,
        queries=[(0, 0), (7, 3)],
        whole=True,
        out=out,
        report=said.append,
    )
    return out, said


def test_arrays_show_where_the_planted_network_looks(drawn):
    with np.load(drawn[0] / "maps.npz") as file:
        beta, rows = file["g/attention8/beta"], file["g/attention8/rows"]
        assert file["g/image"].shape == (3, 8, 8, 1)
        assert file["g/label"].tolist() == [4, 8, 4]
        assert file["d/label"].tolist() == [4, 8, 4]
        assert file["g/attention8/gamma"] == -0.5
        mean = file["g/attention8/mean"]
    assert beta.shape == (3, 64, 16)
    np.testing.assert_allclose(beta.sum(axis=-1), 1, rtol=1e-6)
    # the pixels (0, 0) and (7, 3) lie in cells 0 and 13: these look at 15 and 2
    assert rows.argmax(axis=-1).tolist() == [[15, 2]] * 3
    np.testing.assert_array_equal(rows, beta[:, [0, 7 * 8 + 3]])
    np.testing.assert_allclose(mean, beta.mean(axis=1), rtol=1e-6)


def test_the_images_are_those_of_sagan_sample(workdir, drawn):
    opened, labels = open_run(workdir), np.array([4, 8, 4], np.int32)
    same = sampler.samples(opened.config, opened.variables, labels, seed=1, batch=4)
    with np.load(drawn[0] / "maps.npz") as file:
        image = file["g/image"].astype(int)
    assert (image[0] != image[2]).any()
    assert abs(image - next(iter(same))).max() <= 1  # another batch rounds otherwise


def test_the_picture_is_bright_where_the_planted_network_looks(drawn):
    picture = np.asarray(Image.open(drawn[0] / "g_attention8.png"), int)
    square = 2 * TIMES * 8 // 8  # pixels of a key
    white = picture.sum(axis=-1)
    brightest = heatmaps.heat_colours(np.ones((1, 1)))[0, 0].sum()
    side = 8 * TIMES

    def map_(number):
        """The heat map of a query in the first row, found by its frame."""
        colour = ImageColor.getrgb(heatmaps.COLOURS[number])
        framed = (picture == colour).all(axis=-1)
        y = (framed.sum(axis=1) >= side + 2 * heatmaps.FRAME).argmax()
        corner = np.array([y, framed[y].argmax()]) + heatmaps.FRAME
        y, x = corner
        return white[y : y + side, x : x + side]

    for number, key in ((0, 15), (1, 2)):
        y, x = divmod(key, 4)
        lit = map_(number)[y * square : (y + 1) * square, x * square : (x + 1) * square]
        assert (lit[4:-4, 4:-4] == brightest).all()
        assert (map_(number) == brightest).sum() <= square**2


def test_each_layer_has_a_picture_and_a_line(drawn):
    out, said = drawn
    names = sorted(path.name for path in out.iterdir())
    assert names == ["d_attention4.png", "g_attention8.png", "maps.npz"]
    assert said[0].startswith("3 images of step 7 (EMA 0.5)")
    line = next(line for line in said if line.startswith("g/attention8"))
    assert "gamma -0.5; entropy 0.00 of 4.00 bits" in line and "0.50" in line
    assert "\n  a negative gamma is not a fault" in line


@pytest.mark.parametrize("grid", [AttentionGrid(16, 8), AttentionGrid(7, 7)], ids=str)
def test_a_heat_map_lights_the_pixels_of_its_key_alone(grid):
    by = layout.enlargement(grid.size, heatmaps.SIDE)
    for key in range(grid.keys**2):
        row = np.full(grid.keys**2, 0.01)
        row[key] = 0.5
        lit = heatmaps.heat_map(row, grid).sum(axis=-1)
        assert lit.shape == (grid.size * by, grid.size * by)
        assert lit.max() == heatmaps.heat_colours(np.ones((1, 1))).sum()
        y, x = (lit == lit.max()).nonzero()
        centre = grid.key_centres()[key] * by
        np.testing.assert_allclose([y.mean() + 0.5, x.mean() + 0.5], centre)
        assert len(y) == (2 * grid.size // grid.queries * by) ** 2


def test_pixels_belong_to_the_position_whose_centre_is_nearest():
    for grid in (AttentionGrid(16, 8), AttentionGrid(8, 8), AttentionGrid(56, 7)):
        for pixel in np.ndindex(grid.size, grid.size):
            apart = grid.query_centres() - np.add(pixel, 0.5)
            nearest = np.linalg.norm(apart, axis=1).argmin()
            assert attention_reading.position_of(grid, pixel) == nearest


def test_chosen_queries_look_at_different_things():
    beta = np.tile(np.eye(16)[3], (64, 1))  # nearly all look at the same
    beta[5], beta[40], beta[41] = 1 / 16, np.eye(16)[7], np.eye(16)[7]
    chosen = attention_reading.choose_queries(beta, 3)
    assert len(set(chosen)) == 3 and 5 in chosen and {40, 41} & set(chosen)


def test_real_images_have_the_labels_that_were_asked_for(tiny):
    source = pipeline.open_source(tiny())
    labels = np.array([9, 1, 9], np.int32)
    some = attention_reading.choose_real_images(source, labels, seed=3, classes=10)
    assert some.label.tolist() == [9, 1, 9]
    assert (some.image[0] != some.image[2]).any()
    with pytest.raises(ConfigError, match="--n 500: .* images of class 9, fewer than"):
        attention_reading.choose_real_images(
            source, np.full(500, 9), seed=0, classes=10
        )


def test_switching_off_changes_only_gamma(workdir):
    opened = open_run(workdir)
    assert ablation.ablations(["a"]) == {"as trained": (), "without a": ("a",)}
    assert ablation.ablations(["a", "b"])["without attention"] == ("a", "b")
    off = ablation.switch_off(opened.state, ("attention8",))
    changed = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(opened.state),
            jax.tree.leaves(off),
            strict=True,
        )
        if (np.asarray(a) != np.asarray(b)).any()
    ]
    assert changed == [
        ".g.params['attention8']['gamma']",
        ".ema[0].params['attention8']['gamma']",
    ]
    assert not any(
        average.params["attention8"]["gamma"] for average in (off.g, *off.ema)
    )


def test_every_number_of_the_evaluation_is_compared():
    def result(**values):
        row = {"weights": "raw", "batch_norm": "moving"}
        rows = [{**row, "metric": k, "value": v} for k, v in values.items()]
        return {"results": rows}

    results = {
        "as trained": result(fd=2.0, kid=0.1, **{"ifd/3": 1.0}),
        "without attention8": result(fd=3.5),
    }
    assert ablation.comparison_table(ablation._compare(results)) == [
        ["metric", "weights", "statistics", "as trained", "without attention8"],
        ["fd", "raw", "moving", "2", "3.5 (+1.5)"],
        ["kid", "raw", "moving", "0.1", ""],
    ]


def features(image):
    return image[:, ::2, ::2].reshape(len(image), -1)


def attend_by(capsys, workdir, *options):
    args = ["--workdir", str(workdir), "--n", "2", *options]
    code = main.run(attend_command, args)
    return (code, *capsys.readouterr())


def test_ablation_draws_and_says_that_there_is_no_evaluation(workdir, capsys, tmp_path):
    out = tmp_path / "out"
    options = ["--ablate", "gamma=0", "--out", str(out)]
    code, said, _ = attend_by(capsys, workdir, *options)
    assert code == 0
    missing = f"no metrics: {workdir} has no evaluation of step 7; to evaluate it: "
    assert f"{missing}sagan eval {workdir} --step 7\n" in said
    assert not (out / "ablation.json").exists()
    with Image.open(out / "ablation.png") as picture:
        left = 10 + layout._width("without attention8") + layout._SPACE
        drawn = np.asarray(picture, int)[-10 - 2 * 66 : -10, left : left + 2 * 66]
    assert (drawn[:64] != drawn[66:130]).any()  # cells of 64 pixels and gaps of 2


@pytest.fixture(scope="module")
def evaluated(workdir, tmp_path_factory):
    """A copy of the run, and its evaluation with running averages and with batches."""
    workdir = shutil.copytree(workdir, tmp_path_factory.mktemp("evaluated") / "run")
    with pytest.MonkeyPatch.context() as patch:  # the same features for ever
        patch.setattr(scoring, "of_callable", partial(of_callable, digest="few pixels"))
        for mode in ("moving", "batch"):
            choices = {"metrics": "fid", "samples": 40, "weights": "raw"}
            protocol = Protocol(**choices, batch_norm=mode)
            (result,) = run.evaluate_run(
                workdir, protocol, features=features, report=lambda line: None
            )
        yield workdir, result


@pytest.mark.slow
def test_ablation_repeats_all_of_the_evaluation_and_leaves_it_alone(
    evaluated, tmp_path, monkeypatch
):
    workdir, before = evaluated
    assert {row["batch_norm"] for row in before["results"]} == {"moving", "batch"}
    monkeypatch.chdir(workdir)
    said, labels = [], np.arange(2, dtype=np.int32)
    options = {"seed": 0, "out": tmp_path, "features": features}
    opened = open_run(pathlib.Path("."))
    ablation.ablate(opened, labels, ["attention8"], report=said.append, **options)
    rows = json.loads((tmp_path / "ablation.json").read_text())
    assert [row["as trained"] for row in rows] == [
        row["value"] for row in before["results"]
    ]
    assert all(row["without attention8"] != row["as trained"] for row in rows)
    assert [row["batch_norm"] for row in rows] == ["moving", "batch"]
    for mode in ("moving", "batch"):
        pattern = rf"fd_features +raw +{mode} +\S+ +\S+ \([+-]"
        assert re.search(pattern, said[-1]) and re.search(
            "fd_features", (tmp_path / "ablation.md").read_text()
        )
    assert not any(line.startswith("as trained") for line in said)  # nothing redone
    folder = workdir / "eval" / "step_7"
    assert sorted(p.name for p in folder.iterdir()) == ["card.md", "results.json"]
    assert results.read_result(folder / results.RESULTS) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"asked": None}, "its protocol cannot be read: evaluate again"),
        ({"asked": {"features": [1]}}, "its protocol cannot be read: evaluate again"),
        ({"features": "evil:f"}, "was evaluated by evil:f; your own function can"),
        ({"results": 5}, "no metrics: .* has no evaluation of step 7"),
        ({"results": [{"metric": "fid"}]}, "no metrics: .* has no evaluation of step"),
    ],
)
def test_a_results_file_is_not_trusted(workdir, tmp_path, capsys, change, said):
    """It neither runs what it names nor ends in a traceback."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(workdir / "config.json", run)
    (run / "checkpoints").symlink_to(workdir / "checkpoints")
    row = {"metric": "fid", "weights": "raw", "batch_norm": "moving", "value": 1.0}
    result = results.new_result({}, {"step": 7}) | {
        "asked": protocol_to_json(Protocol())
    }
    result["results"] = [row]
    if name := change.pop("features", None):
        result["asked"]["features"] = name
    (run / "eval" / "step_7").mkdir(parents=True)
    (run / "eval" / "step_7" / results.RESULTS).write_text(
        results.to_json(result | change)
    )
    out = str(tmp_path / "out")
    _, told, error = attend_by(capsys, run, "--ablate", "gamma=0", "--out", out)
    assert re.search(said, told + error) and "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--queries", "8,0"], "--queries 8,0: lies outside the image; .* 0 to 7$"),
        (["--layers", "attention9"], "--layers attention9: there are attention8$"),
        (["--classes", "10"], "--classes 10: must be 0 to 9$"),
        (["--step", "8"], "8"),
        (["--queries", "auto", "1,1"], "--queries auto: must be alone, or pixels only"),
        (["--out", __file__], "--out .*test_heatmaps.py: is not a folder"),
        (["--weights", "best"], "--weights best: there are raw, ema, 0.5$"),
    ],
)
def test_a_mistake_is_one_line(workdir, capsys, options, said):
    code, out, error = attend_by(capsys, workdir, *options)
    assert code == 2 and not out
    assert re.search(said, error.strip()) and error.count("\n") == 1


def test_an_unconditional_run_has_no_classes_in_its_pictures(tiny):
    summary = heatmaps.LayerSummary(
        AttentionGrid(8, 8),
        0.5,
        np.zeros((1, 1), int),
        np.full((1, 1, 16), 1 / 16, np.float32),
        np.full((1, 16), 1 / 16, np.float32),
        np.zeros((1, 64), np.float32),
        np.zeros((1, 64), np.float32),
        np.zeros(1, np.float32),
    )
    image = np.zeros((1, 8, 8, 1), np.uint8)
    examples = heatmaps.Examples(image, np.zeros(1, np.int32))
    named, without = (
        heatmaps.heat_panel("", examples, names, summary) for names in (["class 0"], [])
    )
    assert [panel.rows[0].splitlines()[0] for panel in (named, without)] == [
        "class 0",
        "entropy 0.00 bits",
    ]
    pictures = [layout.Sheet([panel], "").picture for panel in (named, without)]
    assert pictures[0].shape != pictures[1].shape or (pictures[0] != pictures[1]).any()


def test_a_run_without_attention_is_told_so(tiny, tmp_path, capsys):
    workdir = tmp_path / "run"
    claim(workdir, tiny(g__attention=()), 10, ["a"])
    code, _, error = attend_by(capsys, workdir)
    assert code == 2
    said = "nothing to draw: the generator has no attention layer"
    assert error == f"error: {said}\n"


@pytest.mark.parametrize("pixel", ["3", "-1,2", "a,b", "1,2,3"])
def test_a_query_that_is_no_pixel_is_refused(workdir, capsys, pixel):
    code, _, error = attend_by(capsys, workdir, f"--queries={pixel}")
    assert code == 2 and len(error.splitlines()) == 1
    assert "must be auto or ROW,COLUMN" in error
