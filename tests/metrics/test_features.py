"""The embedded feature networks tell real digits from worse ones."""

import jax
import numpy as np
import pytest

from sagan.config import ConfigError, loading
from sagan.data import pipeline
from sagan.data.source import Examples
from sagan.evaluation import image_sets
from sagan.metrics import METRICS, Extracted, MetricError, classifier
from sagan.metrics.features import (
    FEATURES,
    FeatureRequest,
    metric_name,
    of_callable,
    open_features,
)
from sagan.runtime import cache
from tests.support.damage import blur, noise, repeated, without_classes

DIGITS = loading.load("configs/digits.py")


def digits(split):
    return image_sets.of_source(pipeline.open_source(DIGITS, split), 0)


@pytest.fixture(scope="module")
def asked():
    return FeatureRequest(digits("train"), digits("test"), 10)


@pytest.fixture(scope="module")
def network(asked):
    return open_features("auto", asked)


def test_grey_images_with_labels_get_the_classifier(network):
    assert network.name == "classifier"
    assert (network.reads_labels, network.has_classes) == (True, True)


def test_the_classifier_reads_held_out_digits(network, asked):
    _, logits = network.extract(asked.test.image)
    assert (logits.argmax(axis=1) == asked.test.label).mean() >= 0.97
    assert network.about["accuracy on held-out reals"].endswith("of 304")


def numbers(network, reals, fakes, *names):
    """Metrics of fakes beside reals, by the network's features."""
    found = {}
    for name in names:
        metric = METRICS[name]
        states = [
            metric.update(
                metric.empty(), Extracted(*examples, *network.extract(*examples[:1]))
            )
            for examples in (reals, fakes)
        ]
        found |= metric.compute(*states).values
    return found


@pytest.fixture(scope="module")
def halves(asked):
    """Two disjoint sets of real digits."""
    image, label = asked.examples
    return Examples(image[:746], label[:746]), Examples(image[746:], label[746:])


@pytest.mark.parametrize(
    ("spoil", "strengths"),
    [
        (noise, (0.15, 0.25, 0.4)),
        (blur, (0.7, 1.0, 1.5)),
        (without_classes, (1, 3, 6)),
        (repeated, (0.9, 0.96, 0.99)),
    ],
)
def test_the_distance_rises_with_the_damage(network, halves, spoil, strengths):
    reals, others = halves
    worse = [others, *(spoil(others, strength) for strength in strengths)]
    fd = [numbers(network, reals, fakes, "fid")["fid"] for fakes in worse]
    assert fd == sorted(fd) and fd[1] > 1.3 * fd[0] and fd[-1] > 5 * fd[0], fd


def test_swapped_labels_show_in_intra_class_distance_and_accuracy(network, halves):
    reals, others = halves
    told = []
    for share in (0.0, 0.1, 0.5):
        label = others.label.copy()
        wrong = np.arange(len(label)) % 10 < share * 10
        label[wrong] = (label[wrong] + 1) % 10
        fakes = others._replace(label=label)
        told.append(numbers(network, reals, fakes, "fid", "ifid", "accuracy"))
    assert told[0]["fid"] == pytest.approx(told[2]["fid"])  # which does not see labels
    assert 2 * told[0]["ifid"] < told[1]["ifid"] < told[2]["ifid"]
    assert told[0]["accuracy"] - 0.05 > told[1]["accuracy"] > told[2]["accuracy"]


def test_the_distance_is_in_per_cent_of_the_variance(network, asked):
    vector, _ = network.extract(asked.examples.image)
    assert vector.var(axis=0, ddof=1).sum() == pytest.approx(100, rel=1e-3)


def test_the_classifier_is_kept_and_pinned(network, asked, monkeypatch):
    def trained_again(*args):
        raise AssertionError

    monkeypatch.setattr(classifier, "_train", trained_again)
    assert open_features("classifier", asked).digest == network.digest
    other = asked.examples._replace(label=np.roll(asked.examples.label, 1))
    with pytest.raises(AssertionError):  # other data are another classifier
        open_features("classifier", asked._replace(examples=other))


@pytest.mark.slow
def test_its_digest_does_not_depend_on_the_number_of_devices(asked, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", (5, 5))
    monkeypatch.setattr(cache, "read_arrays", lambda name: {})
    fitted = [classifier.fit(*asked.examples, 10)]
    monkeypatch.setattr("jax.local_devices", lambda: jax.devices()[:1])
    fitted.append(classifier.fit(*asked.examples, 10))
    assert fitted[0].digest == fitted[1].digest


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAGAN_CACHE", str(tmp_path / "file"))
    made = cache.cached_arrays("a", lambda: {"a": np.ones(2)})
    np.testing.assert_array_equal(made["a"], 1)


def test_a_broken_cache_file_is_made_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("SAGAN_CACHE", str(tmp_path))
    (tmp_path / "a.npz").write_bytes(b"PK broken")
    for _ in range(2):
        made = cache.cached_arrays("a", lambda: {"a": np.ones(2)})
        np.testing.assert_array_equal(made["a"], 1)
    assert (tmp_path / "a.npz").stat().st_size > 100


def test_rotations_need_no_labels(asked, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", (2, 2))
    image = asked.examples.image[:32]
    unlabelled = FeatureRequest(Examples(image, np.zeros(32, np.int32)), None, 0)
    network = open_features("auto", unlabelled)
    vector, logits = network.extract(image[:5])
    assert (network.name, vector.shape, logits.shape) == ("rotation", (5, 64), (5, 4))
    assert not network.has_classes
    turned, turn = classifier.rotated(image)
    np.testing.assert_array_equal(turned[turn == 1][3], np.rot90(image[3]))


def means(image):
    """A feature function of a user."""
    return image.mean(axis=(1, 2))


def test_any_function_gives_features(asked):
    image = asked.examples.image[:300]
    network = of_callable(means, "means")
    vector, logits = network.extract(image)
    np.testing.assert_allclose(vector, image.mean(axis=(1, 2)), rtol=1e-6)
    assert logits.shape == (300, 0)
    assert open_features(f"{__name__}:means", asked).name == f"{__name__}.means"
    assert network.key is None  # nobody knows what it depends on
    with pytest.raises(ConfigError, match="called inception: choose another name"):
        of_callable(means, "inception")  # else its number would be called fid


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vgg", "--features vgg: unknown; there are auto, inception, efflite0"),
        ("no_such_module:f", "cannot be imported"),
        ("math:f", "cannot be imported"),
        ("math:pi", "is not a function"),
        (":f", "cannot be imported"),
    ],
)
def test_unknown_features_are_one_line(asked, name, said):
    with pytest.raises(ConfigError, match=said):
        open_features(name, asked)


def test_features_of_another_shape_are_one_line(asked):
    network = of_callable(lambda image: image, "all")
    with pytest.raises(ConfigError, match=r"must be \[4 d\]"):
        network.extract(asked.examples.image[:4])


def test_a_classifier_needs_labels(asked):
    with pytest.raises(ConfigError, match="has no labels"):
        open_features("classifier", asked._replace(classes=0))


def test_images_must_be_bytes(network):
    with pytest.raises(MetricError, match="float32: must be uint8"):
        network.extract(np.zeros((2, 16, 16, 1), np.float32))


@pytest.mark.parametrize("name", FEATURES)
def test_numbers_carry_the_name_of_their_features(network, name):
    of = network._replace(name=name)
    told = [metric_name(metric, of) for metric in ("fid", "ifid/3", "density")]
    if name == "inception":
        assert told == ["fid", "ifid/3", "density"]
    else:
        assert told == [f"fd_{name}", f"ifd_{name}/3", f"density_{name}"]


def test_the_score_asks_held_out_reals_and_the_reverse_the_fakes(asked, monkeypatch):
    reals = Examples(*(part[:40] for part in asked.examples))
    fakes = Examples(*(part[40:90] for part in asked.examples))
    test = Examples(*(part[:30] for part in asked.test))
    told = []

    def fit(image, label, classes, progress, *, keep=False):
        assert classes == 10
        told.append((len(image), keep))
        constant = {"label": int(label[0])}
        return classifier.Fitted(constant, np.ones(()), classes, "")

    def extractor(fitted):
        def extract(image):
            told.append(len(image))
            logits = np.eye(10, dtype=np.float32)[[fitted.params["label"]] * len(image)]
            return np.zeros((len(image), 1), np.float32), logits

        return extract

    monkeypatch.setattr(classifier, "fit", fit)
    monkeypatch.setattr(classifier, "extractor", extractor)
    metric = METRICS["cas"].__class__(test=test)
    nothing = np.zeros((0, 1), np.float32)
    states = [
        metric.update(metric.empty(), Extracted(*examples, *(nothing,) * 2))
        for examples in (reals, fakes)
    ]
    values = metric.compute(*states).values
    assert told == [(50, False), 30, (40, True), 50]
    assert values == {
        "cas": np.mean(test.label == fakes.label[0]),
        "cas_reverse": np.mean(fakes.label == reals.label[0]),
    }
