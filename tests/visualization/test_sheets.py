"""Sheets of a run: what each image in them is, and what is said where one fails."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import tree_map_with_path
from PIL import Image

from sagan.batch_norm import SNTable
from sagan.checkpoints.restore import SavedRun, open_run
from sagan.checkpoints.workdir import read_config, to_json
from sagan.cli import main
from sagan.cli.visualize import sheets_command
from sagan.config import replace
from sagan.data import pipeline
from sagan.evaluation import image_sets
from sagan.metrics.features import of_callable
from sagan.sampling import layout, sampler
from sagan.visualization import (
    checkpoint_images,
    interpolation,
    nearest_neighbours,
)
from sagan.visualization import sheets as sheets_lib

SEED = 5


@pytest.fixture(scope="module")
def on_disk(finished_run):
    return open_run(finished_run)


@pytest.fixture(scope="module")
def opened(on_disk):
    """With classes that differ, which those of an untrained generator do not."""
    rng = np.random.default_rng(0)

    def noisy(path, leaf):
        return leaf + rng.normal(0, 0.5, leaf.shape) * in_a_block(path)

    (average, *others) = on_disk.state.ema
    params = tree_map_with_path(noisy, average.params)
    ema = (dataclasses.replace(average, params=params), *others)
    return on_disk._replace(state=dataclasses.replace(on_disk.state, ema=ema))


def in_a_block(path):
    """Whether a weight is a table of the classes."""
    return path[0].key == "block1" and path[1].key in ("bn1", "bn2")


@pytest.fixture(scope="module")
def plain(opened):
    """Samples as `sagan sample` draws them: (labels, **options) -> images."""
    compiled = checkpoint_images.sampler(opened.config)  # once for this module

    def samples(labels, variables=opened.variables, seed=SEED, **options):
        labels = np.asarray(labels, np.int32)
        pieces = sampler.samples(
            opened.config, variables, labels, seed=seed, sampler=compiled, **options
        )
        return np.concatenate(list(pieces))

    return samples


@pytest.fixture(scope="module")
def source(opened):
    return pipeline.open_source(opened.config)


def panels(name, opened, classes=None):
    return sheets_lib.SHEETS[name](opened, seed=SEED, classes=classes).panels


def quarters(image):
    """Means of the quarters of an image: features at once."""
    n, h, w, _ = image.shape
    parts = image.reshape(n, 2, h // 2, 2, w // 2, -1).mean(axis=(2, 4))
    return parts.reshape(n, -1)


@pytest.fixture
def quick_features(monkeypatch):
    network = of_callable(quarters, "quarters")
    monkeypatch.setattr(
        nearest_neighbours, "open_features", lambda name, asked: network
    )
    monkeypatch.setattr(image_sets, "TRAINING", 300)  # of 1493


def test_rows_are_classes_and_columns_the_same_latents(opened, plain):
    (panel,) = panels("classes", opened, classes=[7, 2])
    for label, row in zip([7, 2], panel.images, strict=True):
        np.testing.assert_array_equal(row, plain([label] * checkpoint_images.COLUMNS))
    assert panel.rows == ["class 7", "class 2"]
    assert (panel.images[0] != panel.images[1]).any()
    assert panels("classes", opened)[0].images.shape[0] == 10


def test_names_of_classes_are_escaped_in_every_sheet(on_disk, tmp_path, monkeypatch):
    data = json.loads((on_disk.workdir / "data.json").read_text())
    odd = ["a\nb", "\x1b[31m", "x\udcff", "\r", "\0", "$\\frac$"]
    data["classes"][:6] = odd
    (tmp_path / "data.json").write_text(json.dumps(data))
    odd_run = on_disk._replace(saved=SavedRun(tmp_path, on_disk.config))
    names = checkpoint_images.label_names(odd_run, np.arange(6))
    assert names == [r"a\nb", r"\x1b[31m", r"x\udcff", r"\r", r"\x00", r"$\frac$"]
    monkeypatch.setattr(
        checkpoint_images,
        "draw_images",
        lambda config, variables, z, y: np.zeros((len(y), 8, 8, 1), np.uint8),
    )
    for draw in (sheets_lib.draw_classes, sheets_lib.draw_truncation):
        assert draw(odd_run, seed=SEED, classes=None).picture.size


def test_interpolations_end_in_plain_samples(opened, plain):
    latents, classes, both = (
        p.images for p in panels("interpolation", opened, classes=[3, 8, 1])
    )
    ends = np.repeat([3, 8, 1, 3], 2)  # samples 0 and 1 of class 3, 2 and 3 of 8, ...
    np.testing.assert_array_equal(latents[:, [0, -1]].reshape(8, 8, 8, 1), plain(ends))
    np.testing.assert_array_equal(classes[:, 0], plain(ends)[::2])
    others = np.repeat([8, 1, 3, 8], 2)
    np.testing.assert_array_equal(classes[:, -1], plain(others)[::2])
    np.testing.assert_array_equal(both[0, [0, -1]], plain([3, 3]))
    np.testing.assert_array_equal(both[-1, [0, -1]], plain([8, 8]))


def test_halfway_between_classes_is_the_mean_of_their_tables(opened, plain):
    image = panels("interpolation", opened, classes=[3, 8])[1].images[0, 4]
    params = {**opened.variables["params"]}
    for norm in ("bn1", "bn2"):
        tables = params["block1"][norm].items()
        mean = {name: (table[3:4] + table[8:9]) / 2 for name, table in tables}
        everywhere = {name: row.repeat(10, axis=0) for name, row in mean.items()}
        params["block1"] = {**params["block1"], norm: everywhere}
    wanted = plain([0], {**opened.variables, "params": params})
    np.testing.assert_allclose(image, wanted[0], atol=1)


def test_more_mixtures_than_classes_are_drawn_as_few_are(opened):
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(10), size=23).astype(np.float32)
    z = checkpoint_images.latents(opened, SEED, 23)
    together = interpolation.draw_mixtures(opened, z, weights)
    for i in (0, 11, 22):
        alone = interpolation.draw_mixtures(opened, z[i : i + 1], weights[i : i + 1])
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.parametrize("sn_eval", ["iterate", "stored"])
@pytest.mark.parametrize(
    ("name", "side"), [("scale", "channels"), ("bias", "channels"), ("bias", "classes")]
)
def test_normalised_tables_keep_the_sigma_of_the_whole(tiny, name, side, sn_eval):
    config = tiny(g__sn_tables=side, model__sn_eval=sn_eval)
    rng = np.random.default_rng(0)
    sizes = (6, 10) if side == "channels" else (10, 6)  # of u and v
    kernel, u, v = (
        jnp.asarray(rng.normal(size=s), jnp.float32)
        for s in [(10, 6), *((1, size) for size in sizes)]
    )
    offset, leaf = float(name == "scale"), {"channels": "kernel"}.get(side, "embedding")
    module = SNTable(config.model, classes=10, features=6, offset=offset, side=side)
    spectral = {"u": u, "sigma": jnp.ones(())}
    spectral |= {"v": v} if sn_eval == "stored" else {}
    own = {"params": {leaf: kernel}, "spectral": spectral}
    wanted = module.apply(own, jnp.arange(10))

    def placed(leaf):
        return {"block1": {"bn1": {name: leaf}}}

    variables = {kind: placed(leaf) for kind, leaf in own.items()}
    now, variables = interpolation.without_sn_tables(config, variables)
    weights = rng.dirichlet(np.ones(10), size=10).astype(np.float32)
    found = interpolation.mix_tables(variables, weights)["params"]["block1"]["bn1"][
        name
    ]
    assert now.g.sn_tables == "none"
    np.testing.assert_allclose(found, weights @ wanted, rtol=1e-5, atol=1e-6)


def test_latents_go_along_a_great_circle():
    a = np.array([[2, 0], [2, 0], [3, 0], [1, 1]], np.float32)
    b = np.array([[0, 2], [0, 2], [3, 0], [-1, -1]], np.float32)
    t = np.array([0.5, 1 / 3, 0.25, 0.5], np.float32)
    root = np.sqrt(2)
    wanted = [[root, root], [np.sqrt(3), 1], [3, 0], [0, 0]]  # opposite: straight
    np.testing.assert_allclose(interpolation.great_circle(a, b, t), wanted, atol=1e-6)


def test_truncation_shows_the_same_sample_numbers(opened, plain):
    (panel,) = panels("truncation", opened, classes=[4, 9])
    labels = np.resize([4, 9], checkpoint_images.COLUMNS)
    for name, row in zip(panel.rows, panel.images, strict=True):
        truncation = 0.0 if name == "none" else float(name)
        np.testing.assert_array_equal(row, plain(labels, truncation=truncation))
    assert panel.rows[0] == "none" and panel.columns[:2] == ["class 4", "class 9"]


def test_progress_shows_every_checkpoint_that_can_be_read(on_disk, plain, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(on_disk.workdir, workdir)
    opened = on_disk._replace(saved=SavedRun(workdir, on_disk.config))
    (panel,) = panels("progress", opened)
    assert panel.rows == ["step 1", "step 2"]
    for state, row in zip([open_run(workdir, 1), opened], panel.images, strict=True):
        np.testing.assert_array_equal(row, plain(np.arange(10), state.variables))
    files = (workdir / "checkpoints" / "1").rglob("*")
    for path in [path for path in files if path.is_file()]:
        path.write_bytes(b"")
    found = sheets_lib.SHEETS["progress"](opened, seed=SEED, classes=None)
    assert found.panels[0].rows == ["step 2"]
    assert any("checkpoint 1" in note for note in found.notes)


def test_an_unconditional_run_goes_between_latents_only(opened):
    def of_class_0(path, leaf):
        return leaf[0] if in_a_block(path) else leaf

    (average, *others) = opened.state.ema
    params = tree_map_with_path(of_class_0, average.params)
    ema = (dataclasses.replace(average, params=params), *others)
    run = opened._replace(
        saved=SavedRun(opened.workdir, replace(opened.config, {"data.classes": 0})),
        state=dataclasses.replace(opened.state, ema=ema),
    )
    found = sheets_lib.SHEETS["interpolation"](run, seed=SEED, classes=None)
    assert len(found.panels) == 1 and "unconditional" in found.notes[0]
    wanted = panels("interpolation", opened, [0])[0]
    np.testing.assert_allclose(found.panels[0].images, wanted.images, atol=1)
    first = panels("classes", run)[0].images
    np.testing.assert_array_equal(first[0, 0], found.panels[0].images[0, 0])


@pytest.mark.parametrize("chunk", [40, 1 << 20])
def test_the_nearest_are_those_of_all_distances(monkeypatch, chunk):
    monkeypatch.setattr(
        nearest_neighbours, "_CHUNK", chunk
    )  # 40: ten images of four numbers
    rng = np.random.default_rng(0)
    many = rng.integers(0, 256, (57, 2, 2, 1)).astype(np.uint8)
    form = rng.uniform(0, 255, (6, 4)).astype(np.float32)
    forms = [form, form + rng.normal(0, 9, form.shape).astype(np.float32)]
    found = nearest_neighbours.find_nearest(forms, many, 3)
    flat = many.reshape(57, 4).astype(np.float64)
    apart = [np.linalg.norm(form[:, None] - flat[None], axis=-1) for form in forms]
    distance = np.minimum(*apart)
    wanted = np.argsort(distance, axis=1)[:, :3]
    np.testing.assert_array_equal(found.row, wanted)
    sorted_distances = np.take_along_axis(distance, wanted, axis=1)
    np.testing.assert_allclose(found.distance, sorted_distances, rtol=1e-4)


def test_neighbours_are_training_images_at_the_distance_said(
    opened, source, quick_features
):
    found = sheets_lib.SHEETS["neighbours"](opened, seed=SEED, classes=[6])
    samples, test = found.panels
    rows = [row for row in found.numbers["rows"] if row["what"] == "sample"]
    assert len(rows) == len(samples.images) == 8
    for row, images in zip(rows, samples.images, strict=True):
        assert row["label"] == 6
        for j, one in enumerate([*row["pixels"], *row["features"]], start=1):
            image, label = source.examples(np.array([one["index"]]))
            np.testing.assert_array_equal(image[0], images[j])
            assert label[0] == one["label"]
            shown = images[[0, j]].astype(float)
            if j > nearest_neighbours._NEAREST:
                apart = np.linalg.norm(np.subtract(*quarters(shown)))
            else:
                apart = np.sqrt(np.square(shown[0] - shown[1]).mean())
            assert one["distance"] == pytest.approx(apart, rel=1e-4)
    for name in ("samples", "test_images"):
        assert f"{found.numbers[name]['pixels']['median']:.3g}" in found.caption
    assert "real test images" in test.title and len(test.images) == 8
    assert "searched: 300 of 1493 images" in found.notes


def test_a_generator_of_copies_is_at_distance_zero(
    opened, source, quick_features, monkeypatch
):
    config = replace(opened.config, {"data.flip": True})
    indices = image_sets.order(len(source))[:256]
    copies = source.examples(indices).image[:, :, ::-1]  # mirrored, as in training
    monkeypatch.setattr(nearest_neighbours.drawing, "draw_images", lambda *_: copies)
    numbers = sheets_lib.SHEETS["neighbours"](
        opened._replace(saved=SavedRun(opened.workdir, config)), seed=SEED, classes=None
    ).numbers
    assert numbers["samples"]["pixels"]["median"] < 1e-2
    assert numbers["samples"]["features"]["median"] < 1e-2
    assert numbers["test_images"]["pixels"]["median"] > 1
    first = [row["pixels"][0]["index"] for row in numbers["rows"][:4]]
    assert first == indices[:4].tolist()


def test_small_images_are_enlarged_by_a_whole_factor():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 24, 24, 1)).astype(np.uint8)
    panel = layout.Panel("title", images, ["a", "b"], ["c", "", "d"])
    drawn = layout.Sheet([panel, panel], "").picture
    enlarged = images[1, 2].repeat(3, axis=0).repeat(3, axis=1).repeat(3, axis=2)
    corners = np.argwhere(drawn[:, :, 0] == enlarged[0, 0, 0])
    places = [
        (y, x)
        for y, x in corners
        if np.array_equal(drawn[y : y + 72, x : x + 72], enlarged)
    ]
    assert len(places) == 2  # in each panel, whole


def sheets(*args):
    return main.run(sheets_command, [str(arg) for arg in args])


def test_pictures_are_written_whole_where_asked(on_disk, tmp_path, capsys):
    out = tmp_path / "a" / "b"
    options = ["--seed", SEED, "--out", out, "--only", "classes"]
    assert sheets("--workdir", on_disk.workdir, *options) == 0
    assert "step 2 (EMA 0.5)" in capsys.readouterr().out
    with Image.open(out / "classes.png") as file:
        found = sheets_lib.SHEETS["classes"](on_disk, seed=SEED, classes=None)
        np.testing.assert_array_equal(np.asarray(file), found.picture)
    assert [path.name for path in out.iterdir()] == ["classes.png"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "faces"], "--only faces: unknown; there are classes, inter"),
        (["--classes", "10"], "--classes 10: must be 0 to 9"),
        (["--step", "7"], "must be latest, best, or one of 1, 2"),
        (["--weights", "best"], "--weights best: there are raw, ema"),
        (["--out", __file__, "--only", "classes"], "is not a folder"),
        (["--workdir", "/nowhere"], "/nowhere: must be a single workdir"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(opened, options, said, capsys):
    assert sheets("--workdir", opened.workdir, *options) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


@pytest.fixture
def without_data(opened, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(opened.workdir, workdir)
    config = replace(read_config(workdir), {"data.path": str(tmp_path / "gone")})
    (workdir / "config.json").write_text(to_json(config))
    return workdir


def test_without_its_data_a_run_has_its_other_sheets(without_data, monkeypatch, capsys):
    two = {name: sheets_lib.SHEETS[name] for name in ("neighbours", "classes")}
    monkeypatch.setattr(sheets_lib, "SHEETS", two)
    assert sheets("--workdir", without_data) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "neighbours is left out: data.path" in lines[0] and "gone" in lines[0]
    folder = without_data / "sheets" / "step_2"
    assert [path.name for path in folder.iterdir()] == ["classes.png"]
    assert sheets("--workdir", without_data, "--only", "neighbours") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_run_without_a_checkpoint_is_one_line(finished_run, tmp_path, capsys):
    shutil.copy(finished_run / "config.json", tmp_path)
    assert sheets("--workdir", tmp_path) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err
