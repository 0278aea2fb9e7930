"""From a workdir, or images from anywhere, to numbers with their protocol."""

import contextlib
import dataclasses
import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sagan.checkpoints import restore
from sagan.checkpoints.manager import Checkpoints
from sagan.cli import main
from sagan.config import ConfigError, replace
from sagan.data import pipeline
from sagan.data.source import Examples, Record
from sagan.evaluation import (
    generated,
    image_folders,
    image_sets,
    in_training,
    prepared,
    results,
    run,
    scoring,
)
from sagan.evaluation.protocol import Comparison, Protocol, evaluated_weights
from sagan.generator import Generator
from sagan.metrics import METRICS, MetricError, classifier
from sagan.metrics.features import of_callable
from sagan.sampling import sampler
from sagan.state import create, generator_variables
from sagan.training.experiment import open_experiment

METRIC_NAMES = "fid,kid,prdc,ifid"
PROTOCOL = Protocol(metrics=METRIC_NAMES, samples=40, reals=60, batch_norm="all")


def features(image):
    """Means of the quarters of an image: quick, and not all the same."""
    n, h, w, _ = image.shape
    parts = image.reshape(n, 2, h // 2, 2, w // 2, -1).mean(axis=(2, 4))
    return parts.reshape(n, -1)


@pytest.fixture(scope="module", autouse=True)
def known_features():
    """These features are the same for ever: evaluations go on where they were."""
    with pytest.MonkeyPatch.context() as patch:
        named = functools.partial(of_callable, digest="quarters")
        patch.setattr(scoring, "of_callable", named)
        yield


def quiet(line):
    del line


@pytest.fixture(scope="module", autouse=True)
def few_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "STANDING_BATCHES", 3)
        yield


def evaluate(workdir, protocol=PROTOCOL, **options):
    options = {"features": features, "report": quiet, **options}
    return run.evaluate_run(workdir, protocol, **options)


@pytest.fixture(scope="module")
def workdir(finished_run, tmp_path_factory):
    copy = tmp_path_factory.mktemp("evaluate") / "run"
    return shutil.copytree(finished_run, copy)


@pytest.fixture(scope="module")
def evaluated(workdir):
    return evaluate(workdir, steps="all")


def test_every_weights_and_statistics_get_every_number_and_a_baseline(evaluated):
    rows = evaluated[-1]["results"]
    variants = {(row["weights"], row["batch_norm"]) for row in rows}
    modes = ("moving", "standing", "batch")
    assert variants == {(w, m) for w in ("raw", "ema 0.5") for m in modes}
    names = {row["metric"] for row in rows}
    assert {"fd_features", "ifd_features/3", "improved_recall_features"} <= names
    values = {row["value"] for row in rows if row["metric"] == "fd_features"}
    assert len(values) == 6  # each is another network
    assert all(np.isfinite(row["value"]) and row["samples"] == 40 for row in rows)
    baselines = {
        r["metric"]: (r["baseline"], r["baseline_samples"])
        for r in rows
        if "baseline" in r and "/" not in r["metric"]
    }
    assert 0 < baselines["fd_features"][0] < min(values)
    assert baselines["fd_features"][1] == 40
    assert (
        20 < baselines["density_features"][1] <= 30
    )  # of 60 reals, half of each class


def test_results_card_and_plot_are_left_in_the_workdir(workdir, evaluated):
    for step in (1, 2):
        folder = workdir / "eval" / f"step_{step}"
        result = results.read_result(folder / "results.json")
        assert result == evaluated[step - 1]
        text = (folder / "card.md").read_text()
        for fact in ("reals sha256", "features sha256", "truncation", "seeds", "jax"):
            assert fact in text
        assert "sigma of spectral normalisation: iterate" in text
        assert "EMA weights with the EMA of these" in text
    with Image.open(workdir / "eval" / "metrics.png") as picture:
        assert picture.size[0] > 500


def test_a_second_evaluation_takes_what_is_there(workdir, evaluated, monkeypatch):
    monkeypatch.setattr(scoring, "score", None)
    assert evaluate(workdir, steps="all") == evaluated


def test_a_renamed_run_keeps_its_evaluations(workdir, evaluated, monkeypatch, tmp_path):
    renamed = shutil.copytree(workdir, tmp_path / "other")
    monkeypatch.setattr(scoring, "score", None)
    results = evaluate(renamed, steps="all")
    assert [r["results"] for r in results] == [r["results"] for r in evaluated]
    assert "of other" in results[-1]["about"]["what"]


def test_samples_and_features_are_kept_if_asked_for(workdir, evaluated, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "run")
    narrow = dataclasses.replace(PROTOCOL, weights="ema", batch_norm="moving")
    (result,) = evaluate(copy, narrow, keep=["samples", "features"])
    name = "ema0.5-moving-seed0.npz"
    folder = copy / "eval" / "step_2"
    with np.load(folder / f"features-{name}") as file:
        vector, label = file["vector"], file["label"]
    with np.load(folder / f"samples-{name}") as file:
        np.testing.assert_array_equal(vector, features(file["image"]))
        np.testing.assert_array_equal(label, file["label"])
    assert len(label) == 40
    assert (
        "--save-samples --save-features" not in result["made"]
    )  # no command: features
    fakes = image_sets.of_path(folder / f"samples-{name}")
    assert fakes.labelled and fakes.examples.image.shape == (40, 8, 8, 1)


def test_an_interrupted_evaluation_goes_on(workdir, evaluated, monkeypatch):
    path = workdir / "eval" / "step_2" / "results.json"
    result = results.read_result(path)
    rows = result["results"]
    result["results"] = [r for r in rows if r["weights"] == "raw"]
    path.write_text(results.to_json(result))
    draw, done = generated.draw_samples, []

    def count(drawn, state, average, mode, seed):
        done.append((average, mode))
        return draw(drawn, state, average, mode, seed)

    monkeypatch.setattr(generated, "draw_samples", count)
    again = evaluate(workdir)[0]
    assert done == [(0, "moving"), (0, "standing"), (0, "batch")]
    assert again["results"] == evaluated[-1]["results"]  # to the last digit
    narrow = dataclasses.replace(PROTOCOL, weights="raw", batch_norm="moving")
    redone = evaluate(workdir, narrow, again=True)[0]
    assert done[3:] == [(None, "moving")]
    assert sorted(map(str, redone["results"])) == sorted(map(str, again["results"]))


def test_results_that_were_changed_are_set_aside_and_computed_again(
    workdir, evaluated, tmp_path
):
    shutil.copytree(workdir, tmp_path / "run")
    path = tmp_path / "run" / "eval" / "step_2" / "results.json"
    text = path.read_text()
    renamed, number = text.replace('"notes"', '"notse"'), r'("value": \d*\.\d*)(\d)'
    changed = re.sub(number, lambda m: m[1] + str(9 - int(m[2])), text, count=1)
    older = json.loads(text)
    del older["own_sha256"]
    path.write_text(json.dumps(older))
    assert results.read_result(path) == older  # to be shown
    assert results.read_result(path, sealed=True) is None  # and made again
    for damaged in ("[]", renamed, changed):
        path.write_text(damaged)
        assert results.read_result(path) is None
    narrow = dataclasses.replace(PROTOCOL, weights="raw", batch_norm="moving")
    rows = evaluate(tmp_path / "run", narrow)[0]["results"]
    before = [r for r in evaluated[-1]["results"] if r["weights"] == "raw"]
    before = [r for r in before if r["batch_norm"] == "moving"]
    assert rows == before
    assert path.with_name("results.damaged0.json").read_text() == changed


@pytest.mark.parametrize("name", ["eval", "eval/step_2", "eval/metrics.png"])
def test_an_evaluation_follows_no_link_out_of_the_workdir(
    workdir, evaluated, tmp_path, monkeypatch, name
):
    shutil.copytree(workdir, tmp_path / "run")
    outside, link = tmp_path / "outside", tmp_path / "run" / name
    outside.mkdir()
    target = outside / "picture"
    target.write_text("precious")
    shutil.rmtree(link) if link.is_dir() else link.unlink()
    link.symlink_to(target if link.suffix else outside)
    refused = contextlib.nullcontext()
    if not link.suffix:
        refused = pytest.raises(ConfigError, match=f"/{name}: is a symbolic link")
    with refused:
        evaluate(tmp_path / "run", steps="2")
    assert [p.name for p in outside.iterdir()] == ["picture"]
    assert target.read_text() == "precious"


def test_other_weights_or_unknown_features_are_evaluated_anew(
    tiny, workdir, tmp_path, monkeypatch
):
    folder = tmp_path / "run" / "eval" / "step_1"
    protocol = Protocol(metrics="fid", samples=20, weights="raw", batch_norm="moving")
    ready = prepared.prepare_evaluation(tiny(), protocol, features=features)
    state = create(tiny())
    first = run.evaluate_state(ready, state, folder, report=quiet)
    params = jax.tree.map(lambda x: 2 * x, state.g.params)
    moved = state.replace(g=dataclasses.replace(state.g, params=params))
    other = run.evaluate_state(ready, moved, folder, report=quiet)
    assert other["results"] != first["results"]
    assert len(list(folder.glob("results.*.json"))) == 1  # the first one's
    monkeypatch.setattr(scoring, "of_callable", of_callable)
    unknown = prepared.prepare_evaluation(tiny(), protocol, features=features)
    drawn = []
    draw = generated.draw_samples
    monkeypatch.setattr(
        generated, "draw_samples", lambda *args: drawn.append(args) or draw(*args)
    )
    for _ in range(2):
        run.evaluate_state(unknown, moved, folder, report=quiet)
    assert len(drawn) == 2


@pytest.mark.slow
def test_one_device_gives_the_numbers_of_eight(workdir, evaluated, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    narrow = dataclasses.replace(PROTOCOL, weights="raw", metrics="fid,kid,ifid")
    alone = evaluate(workdir, narrow)[0]["results"]
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
    monkeypatch.setattr(scoring, "score", None)
    assert evaluate(workdir)[0]["results"] == evaluated[-1]["results"]  # is found again


def test_a_broken_checkpoint_is_passed_over(workdir, evaluated, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints" / "2")
    (copy / "checkpoints" / "2").mkdir()
    for steps in ("all", "latest"):
        assert [r["about"]["step"] for r in evaluate(copy, steps=steps)] == [1]
    with pytest.raises(ConfigError, match="checkpoint 2"):
        evaluate(copy, steps="2")


def test_every_average_can_be_named(tiny):
    config = tiny(ema__decays=(0.5, 0.9))
    named = {
        weights: list(evaluated_weights(Protocol(weights=weights), config).items())
        for weights in ("raw", "ema", "both", "all", "0.9")
    }
    raw, first, second = ("raw", None), ("ema 0.5", 0), ("ema 0.9", 1)
    assert named["raw"] == [raw] and named["ema"] == [first]
    assert named["both"] == [raw, first] and named["all"] == [raw, first, second]
    assert named["0.9"] == [second]
    none = tiny(ema__decays=())
    assert evaluated_weights(Protocol(), none) == {"raw": None}
    with pytest.raises(ConfigError, match="--weights ema: unknown; there are raw"):
        evaluated_weights(Protocol(weights="ema"), none)


def test_seeds_give_mean_and_spread(workdir):
    protocol = dataclasses.replace(
        PROTOCOL, metrics="fid", weights="ema", batch_norm="moving", seeds=2
    )
    (row,) = evaluate(workdir, protocol, steps="1")[0]["results"]
    assert row["value"] == pytest.approx(np.mean(row["each"]))
    assert row["std"] == pytest.approx(abs(np.subtract(*row["each"])) / np.sqrt(2))
    assert row["std"] > 0


def test_labels_stay_with_their_samples(tiny, monkeypatch):
    config, protocol = tiny(), Protocol(batch_norm="moving")
    state = create(config)
    labels = generated.even_labels(50, 10)
    drawn = generated.open_samples(config, protocol, labels)
    monkeypatch.setattr(generated, "_CHUNK", 20)  # batches of 16
    pieces = list(generated.draw_samples(drawn, state, 0, "moving", seed=3))
    assert [len(piece.label) for piece in pieces] == [32, 18]
    np.testing.assert_array_equal(np.concatenate([p.label for p in pieces]), labels)
    variables = generator_variables(state, 0)
    wanted = sampler.samples(config, variables, labels, seed=3, batch=16)
    image = np.concatenate([piece.image for piece in pieces])
    np.testing.assert_array_equal(image, np.concatenate(list(wanted)))


@pytest.mark.slow
def test_standing_statistics_are_means_over_batches(tiny):
    config = tiny()
    variables = generator_variables(create(config))
    # tables in which the classes differ, so that the labels matter
    rng = np.random.default_rng(0)
    variables["params"] = jax.tree.map(
        lambda x: x + jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype),
        variables["params"],
    )
    found = sampler.make_standing(config)(variables, 3)
    spoilt = jax.tree.map(lambda x: x + 1, variables["batch_stats"])
    other = sampler.make_standing(config)({**variables, "batch_stats": spoilt}, 3)
    jax.tree.map(np.testing.assert_array_equal, found, other)
    for name in ("params", "spectral"):
        jax.tree.map(np.testing.assert_array_equal, found[name], variables[name])
    # what the first and the last normalisation see: their moments by NumPy
    rng, batch = np.random.default_rng(3), config.data.batch
    moments = {"stem": [], "attention8": []}
    for i in range(sampler.STANDING_BATCHES):
        y = jnp.asarray(rng.integers(0, 10, batch, np.int32))
        z = sampler.latents(config, 3, 2**30 + i * batch + np.arange(batch))
        options = {"train": True, "capture_intermediates": True, "mutable": True}
        _, seen = Generator(config).apply(variables, z, y, **options)
        for name, values in moments.items():
            (x,) = seen["intermediates"][name]["__call__"]
            positions = 16 if name == "stem" else 64  # the stem is not yet an image
            pixels = np.asarray(x, np.float64).reshape(batch * positions, -1)
            values.append((pixels.mean(axis=0), pixels.var(axis=0)))
    stats = found["batch_stats"]
    for name, kept in (
        ("stem", stats["block1"]["bn1"]),
        ("attention8", stats["bn_out"]),
    ):
        mean, var = np.mean(moments[name], axis=0)
        np.testing.assert_allclose(kept["mean"], mean, atol=1e-5)
        np.testing.assert_allclose(kept["var"], var, rtol=1e-4)


def test_the_best_checkpoint_is_that_of_the_lowest_metric(tiny, tmp_path):
    state = create(tiny())
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    for step, metric in enumerate([3.0, 1.0, 2.0], start=1):
        checkpoints.save(step, state, {"metric": metric, "fd_classifier": metric})
    checkpoints.close()
    assert restore.SavedRun(tmp_path, tiny()).steps("best") == [2]
    assert restore.SavedRun(tmp_path, tiny()).steps("all") == [2, 3]


def test_while_training_the_distance_decides(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", (5, 5))
    config = tiny(run__evaluate_every=2, run__evaluate_samples=30)
    state = create(config)
    (tmp_path / "run").mkdir()
    start = in_training.while_training(tmp_path / "run", report=quiet)
    measure = start(open_experiment(config))
    assert measure(state.replace(step=state.step + 1)) == {}
    values = measure(state.replace(step=state.step + 2))
    result = results.read_result(tmp_path / "run" / "eval" / "step_2" / "results.json")
    rows = {
        r["metric"]: r["value"] for r in result["results"] if "/" not in r["metric"]
    }
    assert values == {"metric": rows["fd_classifier"], **rows}
    assert {"accuracy_classifier", "kid_classifier", "is_classifier"} <= set(rows)
    told = []
    in_training.while_training(tmp_path / "run", report=told.append)(
        open_experiment(config)
    )
    assert told == []
    result["protocol"]["labels of the samples"] = "real"  # chosen by another version
    results.write_result(tmp_path / "run" / "eval" / "step_2", result)
    in_training.while_training(tmp_path / "run", report=told.append)(
        open_experiment(config)
    )
    assert "labels of the samples were real and are uniform" in told[0]
    too_many = replace(config, {"run.evaluate_samples": 2000})
    with pytest.raises(ConfigError, match="--samples 2000"):  # before the first step
        start(open_experiment(too_many))


def test_while_training_other_features_leave_out_what_they_cannot(tiny, tmp_path):
    start = in_training.while_training(tmp_path, features=features, report=quiet)
    config = tiny(run__evaluate_every=1, run__evaluate_samples=30)
    values = start(open_experiment(config))(create(tiny()))
    assert values["metric"] == values["fd_features"]


def test_digits_get_every_metric_from_the_classifier(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", (5, 5))
    copy = shutil.copytree(workdir, tmp_path / "run")
    protocol = Protocol(weights="ema", batch_norm="moving", samples=200)
    (result,) = run.evaluate_run(copy, protocol, report=quiet)
    rows = {r["metric"]: r for r in result["results"] if "/" not in r["metric"]}
    assert set(result["protocol"]["metrics"].split(", ")) == set(METRICS)
    assert {"fd_infinity_classifier", "is_single_classifier", "cas"} <= set(rows)
    assert rows["accuracy_classifier"]["baseline_samples"] == 200  # held-out reals
    assert "cas_reverse" not in rows  # accuracy again: the reals trained the classifier
    assert any("cas_reverse is left out" in note for note in result["notes"])


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
        ({"weights": "0.7"}, "--weights 0.7: unknown; there are raw, both, all, ema"),
        ({"metrics": "all,cas"}, "after all, only -NAME"),
        ({"metrics": "all,-lpips"}, "--metrics lpips: unknown"),
        ({"seed": 2**32}, "--seed 4294967296: must be below"),
        ({"metrics": "is"}, "--metrics is: the features features have no classes"),
    ],
)
def test_what_cannot_be_asked_is_one_line(workdir, changes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        evaluate(workdir, dataclasses.replace(PROTOCOL, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", ["7", "newest", "best", "²"])
def test_an_unknown_checkpoint_is_one_line(workdir, steps):
    with pytest.raises(ConfigError, match=f"--step {steps}"):
        evaluate(workdir, steps=steps)


def test_the_command_line_says_what_is_missing(tmp_path, workdir, capsys):
    assert main.run(main.eval_command, ["--workdir", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    assert main.run(main.eval_command, ["--workdir", str(tmp_path)]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err
    assert (
        main.run(main.eval_command, ["--workdir", str(workdir), "--sample", "3"]) == 2
    )
    assert "--sample" in capsys.readouterr().err


def test_classes_are_not_asked_of_an_unconditional_run(tiny, images):
    config = tiny(data__classes=0)
    with pytest.raises(ConfigError, match="--metrics ifid,cas: need classes"):
        prepared.prepare_evaluation(
            config, Protocol(metrics="fid,ifid,cas"), features=features
        )
    ready = prepared.prepare_evaluation(
        config, Protocol(samples=30, reals=60), features=features
    )
    assert set(ready.scorer.metrics) == {"fid", "fid_infinity", "kid", "prdc"}
    assert "ifid is left out: there are no classes" in ready.notes
    found = scoring.score(ready.scorer, [Examples(*(p[:30] for p in images))])
    assert "fd_features" in found.values and "fd_infinity_features" not in found.values
    assert any("fid_infinity is left out: 30 fake" in note for note in found.notes)


# Images from anywhere


@pytest.fixture(scope="module")
def images(tiny):
    source = pipeline.open_source(tiny())
    return image_sets.of_source(source, 80)


def beside(fake, real, tmp_path, **changes):
    asked = Comparison(**{"metrics": "fid,prdc", **changes})
    return image_folders.compare(
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
    rows = [
        {row["metric"]: (row["value"], row["samples"]) for row in result["results"]}
        for result in results
    ]
    assert rows[0] == rows[1]
    assert {count for _, count in rows[0].values()} == {40}
    against_data = beside(tmp_path / "fake", "digits:train", tmp_path, reals=80)
    values = {r["metric"]: r["value"] for r in against_data["results"]}
    wanted, _ = rows[0]["fd_features"]
    assert values["fd_features"] == pytest.approx(wanted, rel=1e-9)
    assert (tmp_path / "out" / "card.md").read_text().count("| fd_features ↓ |") == 1


def test_labels_come_from_folders_names_and_arrays(images, tmp_path):
    image, label = images
    np.savez(tmp_path / "a.npz", image=image, label=label)
    write_folder(tmp_path / "b", image, label)
    (tmp_path / "c").mkdir()
    for i, picture in enumerate(image):
        name = f"{i:06d}_class{label[i]}.png"
        Image.fromarray(picture[..., 0]).save(tmp_path / "c" / name)
    for name in ("a.npz", "b", "c"):
        found = image_sets.of_path(tmp_path / name)
        assert found.classes == 10
        order = np.argsort(found.examples.label, kind="stable")
        wanted = np.argsort(label, kind="stable")
        np.testing.assert_array_equal(found.examples.image[order], image[wanted])


def bad_sets(path, image):
    np.savez(path / "good.npz", image=image, label=np.arange(80) % 10)
    np.savez(path / "negative.npz", image=image, label=np.full(80, -1))
    np.savez(path / "from_one.npz", image=image, label=1 + np.arange(80) % 10)
    np.savez(path / "wide.npz", image=image, label=np.full(80, 2**33))
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
        ("negative.npz", r"must be integers \[80\] from 0"),
        ("wide.npz", r"must be integers \[80\] from 0"),
        ("from_one.npz", "class 10 of the fakes: the classes of the reals are 0, 1"),
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


def test_classes_are_matched_by_name(images, tmp_path):
    image, label = images
    some = label > 4
    write_folder(tmp_path / "a", image[some], label[some])
    write_folder(tmp_path / "b", image, label)
    fake, real = (image_sets.of_path(tmp_path / name) for name in ("a", "b"))
    matched = image_sets.with_labels_of(fake, real).examples.label
    np.testing.assert_array_equal(matched, np.sort(label[some]))
    write_folder(tmp_path / "c", image, label + 5)
    with pytest.raises(ConfigError, match="class class_10, class_11.* of the fakes"):
        beside(tmp_path / "c", tmp_path / "b", tmp_path)


def test_fakes_without_labels_are_compared_without(images, tmp_path):
    image, label = images
    np.savez(tmp_path / "real.npz", image=image, label=label)
    np.savez(tmp_path / "fake.npz", image=image[:30])
    result = beside(tmp_path / "fake.npz", tmp_path / "real.npz", tmp_path)
    assert {row["samples"] for row in result["results"]} == {30}
    with pytest.raises(ConfigError, match="--metrics ifid: need classes"):
        beside(tmp_path / "fake.npz", tmp_path / "real.npz", tmp_path, metrics="ifid")
    write_folder(tmp_path / "names", image[:2])
    (tmp_path / "names" / "000.png").rename(tmp_path / "names" / "0_class3.png")
    assert not image_sets.of_path(tmp_path / "names").labelled  # not all have one


def test_images_are_read_as_in_training(tmp_path):
    sixteen = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    Image.fromarray(sixteen).save(tmp_path / "a.png")
    found = image_sets.of_path(tmp_path).examples.image[0, ..., 0]
    np.testing.assert_array_equal(found, sixteen >> 8)
    clear = np.zeros((8, 8, 4), np.uint8)
    (tmp_path / "clear").mkdir()
    Image.fromarray(clear).save(tmp_path / "clear" / "b.png")
    white = image_sets.of_path(tmp_path / "clear").examples.image
    assert white.shape == (1, 8, 8, 3) and (white == 255).all()


# The scorer and the card


def scorer(examples, samples=None, function=features, **options):
    asked = Comparison(metrics=options.pop("metrics", "fid"), samples=samples)
    reals = scoring.Reals(examples, examples, classes=options.pop("classes", 0))
    return scoring.open_scorer(
        asked, reals, labelled=False, features=function, **options
    )


def test_fakes_in_pieces_are_one_set(images):
    seen = scorer(images, 40, metrics="fid,kid,prdc")
    cuts = [(0, 40)], [(0, 10), (10, 40)]
    whole, pieces = (
        scoring.score(
            seen, [Examples(*(p[a:b] for p in images)) for a, b in pieces]
        ).values
        for pieces in cuts
    )
    assert whole == pytest.approx(pieces, rel=1e-9)


def test_neighbours_compare_as_many_reals_as_fakes(images):
    seen = scorer(images, 30, metrics="fid,prdc")
    (piece,) = seen.states["prdc"]
    assert len(piece["vector"]) == 30
    assert len(seen.reals.label) == 80


def test_features_that_are_no_numbers_are_one_line(images):
    def broken(image):
        return np.full((len(image), 2), np.nan)

    with pytest.raises(MetricError, match="not finite for 80 of 80 images"):
        scorer(images, function=broken)


def test_metrics_have_one_interface(images):
    for name, metric in METRICS.items():
        assert {"labelled", "paired", "logits", "featured"} <= set(dir(metric)), name


def test_labels_of_the_reals_can_be_taken(tiny):
    config = replace(tiny(), {"data.batch": 16})
    protocol = Protocol(metrics="fid", samples=50, reals=60, labels="real")
    ready = prepared.prepare_evaluation(config, protocol, features=features)
    np.testing.assert_array_equal(ready.samples.labels, ready.scorer.reals.label[:50])
    even = generated.even_labels(50, 10)
    assert np.bincount(even).tolist() == 10 * [5]
    assert len(set(even[:10])) < 10  # no batch is one block of classes


@pytest.mark.parametrize(
    ("counts", "kind"), [((100, 80), "uniform"), ((100, 79), "real")]
)
def test_labels_are_those_of_the_reals_by_default_if_classes_are_unequal(
    tiny, counts, kind
):
    label = np.repeat(np.arange(2, dtype=np.int32), counts)
    image = np.zeros((len(label), 8, 8, 1), np.uint8)
    source = dataclasses.replace(
        pipeline.open_source(tiny()),
        records=[Record(b"", int(y)) for y in label],
        splits=("train",),
        class_names=("few", "many"),
        memory=Examples(image, label),
    )
    config = replace(tiny(), {"data.classes": 2})
    found = {}
    for labels in ("auto", "uniform", "real"):
        protocol = Protocol(metrics="fid", samples=178, labels=labels)
        ready = prepared.prepare_evaluation(
            config, protocol, source=source, features=features
        )
        found[labels] = np.bincount(ready.samples.labels).tolist()
        assert ready.facts["labels of the samples"] == {"auto": kind}.get(
            labels, labels
        )
        why = f"{kind}, as classes have {min(counts)} to 100 images"
        assert any(why in note for note in ready.notes) == (labels == "auto")
    assert found["uniform"] == [89, 89] and found["auto"] == found[kind]
    assert found["real"] != found["uniform"]


@pytest.mark.parametrize(
    ("reals", "known", "kind"),
    [
        ((52, 40), None, "uniform"),  # by chance
        ((90, 10), None, "real"),
        ((52, 40), (90, 10), "real"),
        ((90, 10), (50, 45), "uniform"),
    ],
)
def test_labels_of_a_large_set_are_counted_if_known_and_else_guessed(
    tiny, reals, known, kind
):
    source = dataclasses.replace(
        pipeline.open_source(tiny()),
        memory=None,
        sampled=True,
        known_labels=known and np.repeat(np.arange(2, dtype=np.int32), known),
        records=[Record(b"", 0)] * sum(known or reals),
    )
    reals = np.repeat(np.arange(2), reals)
    chosen = generated.choose_labels(Protocol(), source, reals, 8, 2)
    assert chosen[1] == kind
