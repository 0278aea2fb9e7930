"""Statistics of real images in place of the images."""

import shutil

import numpy as np
import pytest

from sagan.cli import main
from sagan.config import ConfigError, replace
from sagan.data import pipeline
from sagan.data.source import Examples
from sagan.evaluation import image_folders, image_sets, npz, prepared, run, scoring
from sagan.evaluation.protocol import Comparison, Protocol, check_protocol
from sagan.evaluation.reference import read_reference
from sagan.metrics.features import FEATURES, of_callable


def features(image):
    return image.reshape(len(image), -1)[:, ::7].astype(np.float32)


def quiet(line):
    del line


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (120, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def files(images, tmp_path):
    """Real and fake images, and the statistics of the reals."""
    np.savez(tmp_path / "real.npz", image=images)
    np.savez(tmp_path / "fake.npz", image=images[:50] // 2)
    image_folders.write_statistics(
        str(tmp_path / "real.npz"),
        Comparison(reals=0),
        out=tmp_path / "stats.npz",
        features=features,
        report=quiet,
    )
    return tmp_path


def compare(folder, real, metrics="all", **options):
    options = {"features": features, "report": quiet, **options}
    result = image_folders.compare(
        folder / "fake.npz",
        str(folder / real),
        Comparison(metrics=metrics, reals=0),
        out=folder / "out",
        **options,
    )
    return result, {row["metric"]: row for row in result["results"]}


def test_a_data_set_is_read_in_pieces(tmp_path, monkeypatch):
    seen = []

    def watched(image):
        seen.append(image)
        return features(image)

    monkeypatch.setattr(image_sets, "_CHUNK", 100)
    image_folders.write_statistics(
        "digits:test",
        Comparison(reals=270),
        size=16,
        channels=1,
        out=tmp_path / "stats.npz",
        features=watched,
        report=quiet,
    )
    assert [len(image) for image in seen if len(image) > 1] == [100, 100, 70]
    vectors = np.concatenate([features(image) for image in seen if len(image) > 1])
    with np.load(tmp_path / "stats.npz") as file:
        assert file["count"] == 270 and file["image"] == "16x16x1"
        covariance = np.cov(vectors, rowvar=False)
        np.testing.assert_allclose(file["sigma"], covariance, rtol=1e-6, atol=1e-6)


def test_statistics_give_the_distance_of_the_images(files):
    _, by_images = compare(files, "real.npz", "fid")
    result, rows = compare(files, "stats.npz")
    wanted = by_images["fd_features"]["value"]
    assert rows["fd_features"]["value"] == pytest.approx(wanted, rel=1e-9)
    assert list(rows) == ["fd_features"]  # 50 fakes are few for fid_infinity
    assert "baseline" in by_images["fd_features"]
    assert "baseline" not in rows["fd_features"]
    notes = "\n".join(result["notes"])
    assert "kid is left out: it needs images of the reals" in notes
    assert "no baseline: it needs the images of the reals" in notes
    assert result["protocol"]["reals"] == 120


def test_they_are_the_moments_of_the_features(files, images):
    with np.load(files / "stats.npz") as file:
        vectors = features(images).astype(np.float64)
        np.testing.assert_allclose(file["mu"], vectors.mean(axis=0), rtol=1e-12)
        covariance = np.cov(vectors, rowvar=False)
        np.testing.assert_allclose(file["sigma"], covariance, rtol=1e-9, atol=1e-9)
        assert file["count"] == 120 and file["features"] == "features"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its use of SciPy
def test_clean_fid_reads_the_file_and_computes_the_same_distance(files, monkeypatch):
    fid = pytest.importorskip("cleanfid.fid")
    path = files / "stats.npz"
    monkeypatch.setattr("cleanfid.features.check_download_url", lambda **_: path)
    vectors = features(np.load(files / "fake.npz")["image"]).astype(np.float64)
    theirs = fid.frechet_distance(
        *fid.get_reference_statistics("ours", "na", split="custom"),
        vectors.mean(axis=0),
        np.cov(vectors, rowvar=False),
    )
    _, rows = compare(files, "stats.npz", "fid")
    assert rows["fd_features"]["value"] == pytest.approx(theirs, rel=1e-6)


def test_torch_fidelity_computes_the_same_distance_from_the_file(files):
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    vectors = features(np.load(files / "fake.npz")["image"]).astype(np.float64)
    with np.load(files / "stats.npz") as file:
        theirs = fid.fid_statistics_to_metric(
            {"mu": file["mu"], "sigma": file["sigma"]},
            {"mu": vectors.mean(axis=0), "sigma": np.cov(vectors, rowvar=False)},
            False,
        )
    _, rows = compare(files, "stats.npz", "fid")
    ours = rows["fd_features"]["value"]
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


def test_files_of_others_have_mu_and_sigma_alone(files, images):
    """As TTUR, pytorch-fid and clean-fid write them; ADM also keeps sFID's."""
    vectors = features(images)
    mu, sigma = vectors.mean(axis=0), np.cov(vectors, rowvar=False)
    np.savez(files / "ttur.npz", mu=mu.astype(np.float32), sigma=sigma)
    np.savez(files / "adm.npz", mu=mu, sigma=sigma, mu_s=mu[:3], sigma_s=sigma[:3, :3])
    _, wanted = compare(files, "stats.npz", "fid")
    for name in ("ttur.npz", "adm.npz"):
        result, rows = compare(files, name, "fid")
        value = wanted["fd_features"]["value"]
        assert rows["fd_features"]["value"] == pytest.approx(value, rel=1e-5)
        assert result["protocol"]["reals"] is None


def test_a_run_is_compared_with_statistics(tiny, finished_run, tmp_path):
    config = tiny()
    ready = prepared.prepare_evaluation(
        config, Protocol(metrics="fid", samples=40, reals=60), features=features
    )
    assert ready.scorer.reals is not None
    vector = ready.scorer.reals.vector.astype(np.float64)
    mu, sigma = vector.mean(axis=0), np.cov(vector, rowvar=False)
    np.savez(tmp_path / "s.npz", mu=mu, sigma=sigma, count=60)
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    values = {}
    for reference in (None, tmp_path / "s.npz"):
        protocol = Protocol(
            metrics="fid",
            samples=40,
            reals=60,
            weights="raw",
            batch_norm="moving",
            reference=reference,
        )
        (result,) = run.evaluate_run(
            workdir, protocol, features=features, report=quiet, again=True
        )
        values[reference] = result["results"][0]["value"]
    images, statistics = values.values()
    assert statistics == pytest.approx(images, rel=1e-9)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(3)}, r"must hold mu \[d\] and sigma \[d d\]"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, r"\(2, 2\); must be floats"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "not finite"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "3 features; features has 10"),
        (
            {"mu": np.zeros(10), "sigma": np.eye(10), "features": "inception"},
            "features inception, and this evaluation features",
        ),
        (
            {"mu": np.zeros(10), "sigma": np.eye(10), "image": "32x32x3"},
            "image 32x32x3, and this evaluation 8x8x1",
        ),
    ],
)
def test_statistics_that_do_not_fit_are_one_line(images, tmp_path, arrays, said):
    np.savez(tmp_path / "s.npz", **arrays)
    example = Examples(images[:1], np.zeros(1, np.int32))
    with pytest.raises(ConfigError, match=said):
        reference = read_reference(tmp_path / "s.npz")
        scoring.open_scorer(
            Comparison(samples=50),
            scoring.Reals(example, example, reference=reference),
            labelled=False,
            features=features,
        )


def test_what_needs_images_is_one_line_if_asked_for(files):
    with pytest.raises(ConfigError, match="--metrics kid: it needs images"):
        compare(files, "stats.npz", "kid")


def test_the_command_writes_a_file_that_the_other_reads(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sagan.metrics.classifier.STEPS", (5, 5))
    monkeypatch.setenv("SAGAN_CACHE", str(tmp_path / "cache"))  # nobody else wants it
    stats = str(tmp_path / "digits.npz")
    with pytest.raises(ConfigError, match="digits: a data set needs --size"):
        main.COMMANDS["statistics"](["digits", "--out", stats])
    with pytest.raises(ConfigError, match="must be an .npz file"):
        main.COMMANDS["statistics"](["digits", "--out", str(tmp_path)])
    size = ["--size", "16", "--channels", "1"]
    main.COMMANDS["statistics"](["digits", "--out", stats, *size])
    assert "1493 images, 64 features of classifier" in capsys.readouterr().out
    assert read_reference(tmp_path / "digits.npz").count == 1493


def test_the_reference_is_a_part_of_the_protocol(tiny, tmp_path):
    missing = replace(tiny(), {})
    with pytest.raises(ConfigError, match="is not there"):
        prepared.prepare_evaluation(
            missing, Protocol(reference=tmp_path / "no.npz"), features=features
        )


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(0), "sigma": np.eye(0)}, "of no features"),
        ({"sigma": np.diag([1.0, -1])}, "sigma has the variance -1; must be at least"),
        ({"sigma": np.array([[1.0, 0.5], [0.4, 1]])}, "sigma is not symmetric"),
        ({"count": 1}, "count 1; must be at least 2"),
        ({"count": -5}, "count -5; must be at least 2"),
    ],
)
def test_statistics_of_no_features_are_refused(tmp_path, arrays, said):
    path = tmp_path / "s.npz"
    np.savez(path, **{"mu": np.zeros(2), "sigma": np.eye(2), **arrays})
    with pytest.raises(ConfigError, match=said):
        read_reference(path)
    rounded = np.eye(2) + np.array([[0, 1e-7], [0, 0]])
    np.savez(path, mu=np.zeros(2), sigma=rounded, count=2)
    assert read_reference(path).count == 2


@pytest.mark.parametrize("kind", ["npy", "deflated", "large"])
def test_a_file_that_is_no_archive_or_damaged_is_one_line(
    files, tmp_path, monkeypatch, kind
):
    path = tmp_path / "s.npz"
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        rng = np.random.default_rng(0)
        np.savez_compressed(path, mu=rng.normal(size=50), sigma=np.eye(50))
        content = bytearray(path.read_bytes())
        if kind == "deflated":
            content[56:60] = b"\xff" * 4  # no type of a block
        path.write_bytes(content)
    monkeypatch.setattr(npz, "MOST_BYTES", 10**4 if kind == "large" else 10**6)
    for read in (read_reference, lambda path: compare(files, path.name)):
        with pytest.raises(ConfigError, match="s.npz: cannot be read as .npz") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_statistics_choose_the_network_that_they_name_or_a_published_one(
    files, tmp_path, monkeypatch
):
    """One generated image trains no network."""
    monkeypatch.setenv("SAGAN_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("sagan.metrics.classifier.fit_once", None)
    opened = []
    monkeypatch.setitem(FEATURES, "efflite0", lambda _: opened.append("e") or one)
    one = of_callable(features, "efflite")
    mu, sigma = np.zeros(10), np.eye(10)
    np.savez(files / "named.npz", mu=mu, sigma=sigma, features="efflite0")
    with pytest.raises(ConfigError, match="statistics have features efflite0"):
        compare(files, "named.npz", features=None)  # those of `one` are not called so
    assert opened
    np.savez(files / "bare.npz", mu=mu, sigma=sigma)
    np.savez(files / "code.npz", mu=mu, sigma=sigma, features="antigravity:theirs")
    for name in ("bare.npz", "code.npz"):
        with pytest.raises(ConfigError, match="only statistics: choose") as error:
            compare(files, name, features=None)
        assert "eval.py --reference" in str(error.value)


def test_only_metrics_that_are_possible_limit_the_samples(files, images, tmp_path):
    example = Examples(images[:1], np.zeros(1, np.int32))
    np.savez(tmp_path / "s.npz", mu=np.zeros(10), sigma=np.eye(10), count=20)
    np.savez(tmp_path / "u.npz", mu=np.zeros(10), sigma=np.eye(10))
    for name, samples in (("s.npz", 50), ("u.npz", 60_000)):
        reals = scoring.Reals(
            example, example, reference=read_reference(tmp_path / name)
        )
        asked = Comparison(samples=samples)
        scorer = scoring.open_scorer(asked, reals, labelled=False, features=features)
        assert scorer.samples == samples and "prdc" not in scorer.metrics


def test_a_split_beside_statistics_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--split test: --reference has the reals"):
        check_protocol(Protocol(reference=tmp_path / "s.npz", split="test"))


def test_the_size_is_compared_before_images_are_read(tiny, tmp_path, monkeypatch):
    path = tmp_path / "s.npz"
    np.savez(path, mu=np.zeros(10), sigma=np.eye(10), image="32x32x3")
    monkeypatch.setattr(image_sets, "for_features", None)
    with pytest.raises(ConfigError, match="image 32x32x3, and this evaluation 8x8x1"):
        prepared.prepare_evaluation(tiny(), Protocol(reference=path))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["digits", "--size", "-5"], "--size -5: must be at least 1"),
        (["digits", "--size", "8", "--channels", "-1"], "--channels"),
        (["digits", "--size", "8", "--reals", "1"], "--reals 1: a covariance needs"),
        (["digits:foo", "--size", "8"], "digits:foo: is no folder and no .npz file"),
        (["{files}/real.npz", "--size", "8"], "--size 8: is for data sets"),
        (["{files}/stats.npz"], "holds statistics already"),
        (["/nonexistent/folder"], "/nonexistent/folder: is not there"),
        (["/nonexistent/folder", "--size", "8"], "/nonexistent/folder: is not there"),
    ],
)
def test_mistakes_of_statistics_are_one_line(files, capsys, args, said):
    args = [arg.format(files=files) for arg in args] + ["--out", str(files / "o.npz")]
    assert main.run(main.COMMANDS["statistics"], args) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_no_images_are_read_beside_statistics_if_no_network_is_trained(
    tiny, tmp_path, monkeypatch
):
    path = tmp_path / "s.npz"
    np.savez(path, mu=np.zeros(10), sigma=np.eye(10))
    read = image_sets.of_source(pipeline.open_source(tiny()), 40)
    monkeypatch.setattr(image_sets, "of_source", None)
    protocol = Protocol(metrics="fid", samples=40, labels="real", reference=path)
    ready = prepared.prepare_evaluation(tiny(), protocol, features=features)
    np.testing.assert_array_equal(ready.samples.labels, read.label)
