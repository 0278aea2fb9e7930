"""From a workdir, or images from anywhere, to numbers with their protocol."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sagan import (
    card,
    cli,
    compare,
    data,
    evaluate,
    export,
    imagesets,
    judge,
    sample,
)
from sagan.checkpoint import Checkpoints
from sagan.config import ConfigError, replace
from sagan.generator import Generator
from sagan.judge import Floor
from sagan.metrics import METRICS, MetricError
from sagan.protocol import Comparison, Protocol
from sagan.source import Examples
from sagan.state import create, generator_variables

METRIC_NAMES = "fid,kid,prdc,ifid"
PROTOCOL = Protocol(metrics=METRIC_NAMES, samples=40, reals=60, batch_norm="all")


def features(image):
    """Means of the quarters of an image: quick, and not all the same."""
    n, h, w, _ = image.shape
    parts = image.reshape(n, 2, h // 2, 2, w // 2, -1).mean(axis=(2, 4))
    return parts.reshape(n, -1)


def quiet(line):
    del line


@pytest.fixture(scope="module", autouse=True)
def few_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "STANDING_BATCHES", 3)
        yield


def run(workdir, protocol=PROTOCOL, **options):
    options = {"features": features, "report": quiet, **options}
    return evaluate.evaluate_run(workdir, protocol, **options)


@pytest.fixture(scope="module")
def workdir(finished_run, tmp_path_factory):
    copy = tmp_path_factory.mktemp("evaluate") / "run"
    return shutil.copytree(finished_run, copy)


@pytest.fixture(scope="module")
def evaluated(workdir):
    return run(workdir, steps="all")


def test_every_weights_and_statistics_get_every_number_and_a_floor(evaluated):
    rows = evaluated[-1]["results"]
    variants = {(row["weights"], row["batch_norm"]) for row in rows}
    modes = ("moving", "standing", "batch")
    assert variants == {(w, m) for w in ("raw", "ema 0.5") for m in modes}
    names = {row["metric"] for row in rows}
    assert {"fd_features", "ifd_features/3", "improved_recall_features"} <= names
    values = {row["value"] for row in rows if row["metric"] == "fd_features"}
    assert len(values) == 6  # each is another network
    assert all(np.isfinite(row["value"]) and row["samples"] == 40 for row in rows)
    floor = {
        r["metric"]: (r["floor"], r["floor_samples"])
        for r in rows
        if "/" not in r["metric"]  # a class may have too few reals for one
    }
    assert 0 < floor["fd_features"][0] < min(values)
    assert floor["fd_features"][1] == 40
    assert floor["density_features"][1] == 30  # of 60 reals, apart


def test_results_card_and_plot_are_left_in_the_workdir(workdir, evaluated):
    for step in (1, 2):
        folder = workdir / "eval" / f"step_{step}"
        result = json.loads((folder / "results.json").read_text())
        assert result == evaluated[step - 1]
        text = (folder / "card.md").read_text()
        for fact in ("reals sha256", "features sha256", "truncation", "seeds", "jax"):
            assert fact in text
        assert "EMA weights with the EMA of these" in text
    with Image.open(workdir / "eval" / "metrics.png") as picture:
        assert picture.size[0] > 500


def test_a_second_evaluation_takes_what_is_there(workdir, evaluated, monkeypatch):
    monkeypatch.setattr(evaluate, "_measure", None)
    assert run(workdir, steps="all") == evaluated


def test_an_interrupted_evaluation_goes_on(workdir, evaluated, monkeypatch):
    path = workdir / "eval" / "step_2" / "results.json"
    result = json.loads(path.read_text())
    rows = result["results"]
    result["results"] = [r for r in rows if r["weights"] == "raw"]
    path.write_text(json.dumps(result))
    measured, done = evaluate._measure, []

    def count(*args):
        done.append(args[-1])
        return measured(*args)

    monkeypatch.setattr(evaluate, "_measure", count)
    again = run(workdir)[0]
    assert [what.split(", ")[1] for what in done] == ["ema 0.5"] * 3
    assert again["results"] == evaluated[-1]["results"]  # to the last digit


def test_one_device_gives_the_numbers_of_eight(workdir, evaluated, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    narrow = dataclasses.replace(PROTOCOL, weights="raw", metrics="fid,kid,ifid")
    alone = run(workdir, narrow)[0]["results"]
    many = {
        (r["metric"], r["weights"], r["batch_norm"]): r["value"]
        for r in evaluated[-1]["results"]
    }
    assert len(alone) > 20
    for row in alone:
        wanted = many[row["metric"], row["weights"], row["batch_norm"]]
        assert row["value"] == pytest.approx(wanted, rel=1e-6), row
    kept = workdir / "eval" / "step_2"
    assert len(list(kept.glob("results.*.json"))) == 1  # the other protocol's
    run(workdir)


def test_a_broken_checkpoint_is_passed_over(workdir, evaluated, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints" / "2")
    (copy / "checkpoints" / "2").mkdir()
    for steps in ("all", "latest"):
        assert [result["step"] for result in run(copy, steps=steps)] == [1]
    with pytest.raises(ConfigError, match="checkpoint 2"):
        run(copy, steps="2")


def test_seeds_give_mean_and_spread(workdir):
    protocol = dataclasses.replace(
        PROTOCOL, metrics="fid", weights="ema", batch_norm="moving", seeds=2
    )
    (row,) = run(workdir, protocol, steps="1")[0]["results"]
    assert row["value"] == pytest.approx(np.mean(row["each"]))
    assert row["std"] == pytest.approx(abs(np.subtract(*row["each"])) / np.sqrt(2))
    assert row["std"] > 0


def test_standing_statistics_are_means_over_batches(tiny):
    config = tiny()
    variables = generator_variables(create(config))
    found = sample.make_standing(config)(variables, 3)
    spoilt = jax.tree.map(lambda x: x + 1, variables["batch_stats"])
    other = sample.make_standing(config)({**variables, "batch_stats": spoilt}, 3)
    jax.tree.map(np.testing.assert_array_equal, found, other)
    for name in ("params", "spectral"):
        jax.tree.map(np.testing.assert_array_equal, found[name], variables[name])
    # the first normalisation sees the stem's output: its moments by NumPy
    rng, batch = np.random.default_rng(3), config.data.batch
    means, variances = [], []
    for i in range(sample.STANDING_BATCHES):
        y = rng.integers(0, 10, batch, np.int32)
        z = sample.latents(config, 3, 2**30 + i * batch + np.arange(batch))
        _, seen = Generator(config).apply(
            variables,
            z,
            jnp.asarray(y),
            train=False,
            capture_intermediates=True,
            mutable=True,
        )
        (stem,) = seen["intermediates"]["stem"]["__call__"]
        pixels = np.asarray(stem, np.float64).reshape(batch * 16, -1)
        means.append(pixels.mean(axis=0))
        variances.append(pixels.var(axis=0))
    first = found["batch_stats"]["block1"]["bn1"]
    np.testing.assert_allclose(first["mean"], np.mean(means, axis=0), atol=1e-6)
    np.testing.assert_allclose(first["var"], np.mean(variances, axis=0), rtol=1e-5)


def test_the_best_checkpoint_is_that_of_the_lowest_metric(tiny, tmp_path):
    state = create(tiny())
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    for step, metric in enumerate([3.0, 1.0, 2.0], start=1):
        checkpoints.save(step, state, {"metric": metric, "fd_classifier": metric})
    checkpoints.close()
    assert export.checkpoint_steps(tmp_path, tiny(), "best") == [2]
    assert export.checkpoint_steps(tmp_path, tiny(), "all") == [2, 3]


def test_while_training_the_distance_decides(tiny, workdir, tmp_path, monkeypatch):
    config = tiny(run__evaluate_every=2, run__evaluate_samples=20)
    state = create(config)
    monkeypatch.setattr(evaluate, "_WHILE_TRAINING", "fid")
    prepare = evaluate.prepare
    monkeypatch.setattr(
        evaluate, "prepare", lambda *args: prepare(*args, features=features)
    )
    call = evaluate.while_training(tmp_path / "run", report=quiet)
    assert call(config, state.replace(step=state.step + 1)) == {}
    values = call(config, state.replace(step=state.step + 2))
    result = card.read(tmp_path / "run" / "eval" / "step_2" / "results.json")
    assert values == {
        "metric": result["results"][0]["value"],
        "fd_features": result["results"][0]["value"],
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": "fid,lpips"}, "--metrics lpips: unknown; there are fid"),
        ({"batch_norm": "none"}, "--batch-norm none: unknown; there are moving"),
        ({"samples": 1}, "--samples 1: must be at least 2"),
        ({"truncation": -1.0}, "--truncation -1.0"),
        ({"truncation": float("nan")}, "--truncation nan"),
        ({"resize": "area"}, "--resize area: unknown; there are tf1, clean"),
        ({"split": "dev"}, "data.split = 'dev'"),
        ({"samples": 61}, "prdc needs as many reals, and there are 60"),
        ({"metrics": "is"}, "--metrics is: the features features have no classes"),
    ],
)
def test_what_cannot_be_asked_is_one_line(workdir, changes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        run(workdir, dataclasses.replace(PROTOCOL, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", ["7", "newest", "best"])
def test_an_unknown_checkpoint_is_one_line(workdir, steps):
    with pytest.raises(ConfigError, match=f"--step {steps}"):
        run(workdir, steps=steps)


def test_the_command_line_says_what_is_missing(tmp_path, workdir, capsys):
    assert cli.run(cli.eval_command, ["--workdir", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    assert cli.run(cli.eval_command, ["--workdir", str(tmp_path)]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err
    assert cli.run(cli.eval_command, ["--workdir", str(workdir), "--sample", "3"]) == 2
    assert "--sample" in capsys.readouterr().err


def test_classes_are_not_asked_of_an_unconditional_run(tiny, images):
    config = tiny(data__classes=0)
    with pytest.raises(ConfigError, match="--metrics ifid,cas: need classes"):
        evaluate.prepare(config, Protocol(metrics="fid,ifid,cas"), features=features)
    ready = evaluate.prepare(config, Protocol(samples=30, reals=60), features=features)
    assert set(ready.judge.metrics) == {"fid", "fid_infinity", "kid", "prdc"}
    assert "ifid is left out: there are no classes" in ready.judge.notes
    found = judge.measure(ready.judge, [Examples(*(p[:30] for p in images))])
    assert "fd_features" in found.values and "fd_infinity_features" not in found.values
    assert any("fid_infinity is left out: 30 fake" in note for note in found.notes)


# Images from anywhere


@pytest.fixture(scope="module")
def images(tiny):
    source = data.open_source(tiny())
    return imagesets.of_source(source, 80)


def beside(fake, real, tmp_path, **changes):
    asked = Comparison(**{"metrics": "fid,prdc", **changes})
    return compare.compare(
        fake, str(real), asked, out=tmp_path / "out", features=features, report=quiet
    )


def write_folder(path, image, label=None):
    for i, picture in enumerate(image):
        folder = path if label is None else path / f"class_{label[i]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0]).save(folder / f"{i:03d}.png")


def test_folders_arrays_and_data_sets_are_the_same_images(images, tmp_path):
    image, label = images
    np.savez(tmp_path / "fake.npz", image=image[:40], label=label[:40])
    np.savez(tmp_path / "real.npz", arr_0=image[..., 0], arr_1=label)
    write_folder(tmp_path / "fake", image[:40])
    results = [
        beside(tmp_path / fake, tmp_path / "real.npz", tmp_path, reals=0)
        for fake in ("fake.npz", "fake")
    ]
    rows = [result["results"] for result in results]
    assert rows[0] == rows[1]
    assert {row["samples"] for row in rows[0]} == {40}
    against_data = beside(tmp_path / "fake", "digits:train", tmp_path, reals=80)
    values = {r["metric"]: r["value"] for r in against_data["results"]}
    wanted = {r["metric"]: r["value"] for r in rows[0]}
    assert values["fd_features"] == pytest.approx(wanted["fd_features"], rel=1e-9)
    assert (tmp_path / "out" / "card.md").read_text().count("| fd_features |") == 1


def test_labels_come_from_folders_names_and_arrays(images, tmp_path):
    image, label = images
    np.savez(tmp_path / "a.npz", image=image, label=label)
    write_folder(tmp_path / "b", image, label)
    (tmp_path / "c").mkdir()
    for i, picture in enumerate(image):
        name = f"{i:06d}_class{label[i]}.png"
        Image.fromarray(picture[..., 0]).save(tmp_path / "c" / name)
    for name in ("a.npz", "b", "c"):
        found = imagesets.of_path(tmp_path / name)
        assert found.classes == 10
        order = np.argsort(found.examples.label, kind="stable")
        wanted = np.argsort(label, kind="stable")
        np.testing.assert_array_equal(found.examples.image[order], image[wanted])


def bad_sets(path, image):
    np.savez(path / "good.npz", image=image)
    np.savez(path / "names.npz", pictures=image)
    np.savez(path / "float.npz", image=image / 255.0)
    np.savez(path / "labels.npz", image=image, label=np.zeros(3, int))
    np.savez(path / "large.npz", image=np.repeat(image, 2, axis=1))
    np.savez(path / "colour.npz", image=np.repeat(image, 3, axis=3))
    np.savez(path / "none.npz", image=image[:0])
    (path / "broken.npz").write_bytes(b"PK")
    (path / "empty").mkdir()
    write_folder(path / "sizes", image[:2])
    Image.fromarray(image[0, :4, :, 0]).save(path / "sizes" / "b.png")
    write_folder(path / "broken", image[:2])
    (path / "broken" / "b.png").write_bytes(b"\x89PNG")


@pytest.mark.parametrize(
    ("fake", "said"),
    [
        ("names.npz", "holds pictures; must hold uint8 images"),
        ("float.npz", "images of type float64"),
        ("labels.npz", r"must be integers \[80\]"),
        ("large.npz", "the fakes are 16x8 grey, the reals 8x8 grey"),
        ("colour.npz", "the fakes are 8x8 colour"),
        ("none.npz", "holds no images"),
        ("broken.npz", "cannot be read as .npz"),
        ("missing.npz", "is not there"),
        ("missing", "is neither a folder of images nor an .npz file"),
        ("empty", "holds no images"),
        ("sizes", "all images must have one size and type"),
        ("broken", "b.png: cannot be read"),
    ],
)
def test_sets_that_cannot_be_compared_are_one_line(images, tmp_path, fake, said):
    bad_sets(tmp_path, images.image)
    with pytest.raises(ConfigError, match=said) as caught:
        beside(tmp_path / fake, tmp_path / "good.npz", tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_classes_of_other_names_are_one_line(images, tmp_path):
    image, label = images
    write_folder(tmp_path / "a", image, label)
    write_folder(tmp_path / "b", image, label + 1)
    with pytest.raises(ConfigError, match="the classes of the fakes are class_0"):
        beside(tmp_path / "a", tmp_path / "b", tmp_path)


# The judge and the card


def test_features_that_are_no_numbers_are_one_line(images):
    def broken(image):
        return np.full((len(image), 2), np.nan)

    with pytest.raises(MetricError, match="not finite for 80 of 80 images"):
        judge.open_judge(
            Comparison(metrics="fid"),
            imagesets.ImageSet(images),
            images,
            None,
            features=broken,
        )


def test_the_floor_of_resampled_reals_is_that_of_disjoint_ones():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4000, 4, 4, 1)).astype(np.uint8)
    many = Examples(pixels, np.zeros(4000, np.int32))

    def court(examples, samples):
        return judge.open_judge(
            Comparison(metrics="fid", samples=samples),
            imagesets.ImageSet(examples),
            examples,
            None,
            features=features,
        )

    apart = [
        judge.measure(
            court(Examples(*(part[i : i + 200] for part in many)), 200),
            [Examples(*(part[i + 200 : i + 400] for part in many))],
        ).values["fd_features"]
        for i in range(0, 4000, 400)
    ]
    again = [
        judge.floor(court(Examples(*(part[i : i + 200] for part in many)), 200))
        for i in range(0, 4000, 400)
    ]
    floors = [floor["fd_features"].value for floor in again]
    assert np.mean(floors) == pytest.approx(np.mean(apart), rel=0.25)


def test_a_table_has_a_column_for_each_variant():
    result = card.new({"samples": 4}, {"what": "x", "step": 1})
    floors = {"fid": Floor(1.0, 4)}
    card.add(
        result, {"weights": "raw", "batch_norm": "moving"}, {"fid": [2.0]}, floors, 4
    )
    both = {"fid": [3.0, 5.0], "ifid/3": [9.0, 9.0]}
    card.add(result, {"weights": "ema", "batch_norm": "moving"}, both, floors, 4)
    assert card.table(result) == [
        ["metric", "raw, moving", "ema, moving", "real against real", "at"],
        ["fid", "2", "4 ± 1.4", "1", "4"],
    ]
    assert "| 3 | 9 ± 0 |" in card.card(result)


def test_metrics_have_one_protocol(images):
    for name, metric in METRICS.items():
        assert {"labelled", "paired", "logits", "featured"} <= set(dir(metric)), name


def test_labels_of_the_reals_can_be_taken(tiny):
    config = replace(tiny(), {"data.batch": 16})
    protocol = Protocol(metrics="fid", samples=50, reals=60, labels="real")
    ready = evaluate.prepare(config, protocol, features=features)
    np.testing.assert_array_equal(evaluate._labels(ready), ready.judge.reals.label[:50])
