"""Baselines: real images in place of samples."""

import numpy as np
import pytest

from sagan.data.source import Examples
from sagan.evaluation import baseline, generated, scoring
from sagan.evaluation.baseline import half_sizes, split_sizes
from sagan.evaluation.protocol import Comparison
from sagan.metrics.interface import ESTIMATE, MEASURED, UPPER, MetricError

METRICS = "fid,kid,ifid,prdc"


class World:
    """A distribution of features, hidden in the bytes of images."""

    def __init__(self, classes, features=16, apart=1.0):
        self.rng = np.random.default_rng(0)
        self.means = apart * self.rng.normal(size=(max(classes, 1), features))
        self.mixing = self.rng.normal(size=(features, features)) / features**0.5
        self.classes = classes

    def draw(self, label):
        noise = self.rng.normal(size=(len(label), len(self.mixing))) @ self.mixing
        vector = np.maximum(self.means[label] + noise + 0.3, 0).astype(np.float32)
        image = vector.view(np.uint8).reshape(len(label), -1, 4, 1)
        return Examples(image, label.astype(np.int32))

    def scorer(self, label, samples, metrics=METRICS):
        real = self.draw(label)
        return scoring.open_scorer(
            Comparison(metrics=metrics, samples=samples),
            scoring.Reals(real, real, None, self.classes),
            labelled=self.classes > 0,
            features=vectors,
        )


def vectors(image):
    return np.ascontiguousarray(image).reshape(len(image), -1).view(np.float32)


def even(count, classes):
    return np.resize(np.arange(max(classes, 1)), count)


def perfect_and_estimated(world, reals, labels, draws, metrics, *, random=False):
    """Means of every number over draws: of a perfect generator, and of the baseline."""
    perfect, found = [], []
    for _ in range(draws):
        label, asked = reals(world.rng), labels(world.rng)
        seen = world.scorer(label, len(asked), metrics)
        for _ in range(4):
            fakes = world.draw(labels(world.rng))
            perfect.append(scoring.score(seen, [fakes]).values)
        known = asked if world.classes else None
        found.append(baseline.baselines(seen, known, random=random)[0])
    names = [name for name in found[0] if "/" not in name]
    return {
        name: (
            np.mean([values[name] for values in perfect]),
            np.mean([values[name].value for values in found]),
            found[0][name],
        )
        for name in names
    }


@pytest.mark.parametrize(
    ("classes", "reals", "fakes"), [(0, 400, 200), (5, 600, 300), (5, 300, 300)]
)
def test_an_estimate_is_what_a_perfect_generator_gets(classes, reals, fakes):
    """Halves of the reals alone would give 1.3 to 2 times as much."""
    found = perfect_and_estimated(
        World(classes, apart=0.5),
        lambda rng: rng.permutation(even(reals, classes)),
        lambda rng: even(fakes, classes),
        30,
        "fid,ifid,prdc" if classes else "fid,prdc",
    )
    assert ("ifd_vectors" in found) == (classes > 0)
    for name, (perfect, estimated, one) in found.items():
        assert estimated == pytest.approx(perfect, rel=0.05), name
        if not name.startswith(("fd", "ifd")):
            assert one.kind == MEASURED
            continue
        each = (classes or 1) if name.startswith("ifd") else 1
        assert one[1:3] == (fakes // each, reals // each) and one.kind == ESTIMATE


def test_labels_of_the_reals_may_be_a_sample_too():
    """Their shares then differ from those asked for, and the difference counts."""
    found = perfect_and_estimated(
        World(4, features=6),
        lambda rng: rng.integers(0, 4, 500),
        lambda rng: even(250, 4),
        40,
        "fid",
    )
    perfect, estimated, _ = found["fd_vectors"]
    assert estimated == pytest.approx(perfect, rel=0.07)


@pytest.mark.slow
@pytest.mark.parametrize("random", [False, True])
def test_kid_is_below_zero_with_even_labels_and_zero_with_random_ones(random):
    world = World(10, features=16)
    found = perfect_and_estimated(
        world,
        lambda rng: rng.integers(0, 10, 600) if random else even(600, 10),
        lambda rng: rng.integers(0, 10, 300) if random else even(300, 10),
        40,
        "kid",
        random=random,
    )
    perfect, estimated, _ = found["kid_full_vectors"]
    assert estimated == pytest.approx(perfect, abs=0.006)
    for value in (perfect, estimated):
        assert abs(value) < 0.008 if random else value < -0.012, (perfect, estimated)


def test_too_few_images_for_the_features_have_an_upper_value():
    world = World(2, features=40)
    label, asked = even(60, 2), even(60, 2)
    ratios = []
    for _ in range(8):
        seen = world.scorer(label, 60, "fid,ifid")
        found, _ = baseline.baselines(seen, asked)
        assert all(one.kind == UPPER for one in found.values())
        assert found["fd_vectors"][1:3] == (30, 30)
        perfect = scoring.score(seen, [world.draw(asked)]).values
        ratios.append(found["ifd_vectors"].value / perfect["ifd_vectors"])
    assert 1 < np.mean(ratios) < 2


def test_shares_far_from_those_of_the_reals_have_an_upper_value():
    label = np.repeat([0, 1], (180, 20))
    seen = World(2).scorer(label, 100, "fid,kid")
    values = {}
    for name, labels in (("real", label[::2]), ("even", even(100, 2))):
        values[name] = baseline.baselines(seen, labels)[0]
    assert values["real"]["fd_vectors"].kind == ESTIMATE
    assert values["even"]["fd_vectors"].kind == UPPER
    assert values["even"]["kid_vectors"].kind == MEASURED
    assert 2 * values["real"]["fd_vectors"].value < values["even"]["fd_vectors"].value


def test_several_draws_have_a_mean_and_a_deviation():
    world = World(3)
    seen = world.scorer(even(120, 3), 60)
    two, five = (baseline.baselines(seen, even(60, 3), draws=n)[0] for n in (2, 5))
    for name in ("fd_vectors", "density_vectors", "ifd_vectors", "ifd_vectors/2"):
        assert five[name].std > 0 and five[name].value != two[name].value
    assert not any("_std" in name for name in five)
    one = baseline.baselines(seen, even(60, 3), draws=1)[0]
    assert one["fd_vectors"].std is None


def test_stand_ins_have_the_labels_of_the_fakes_and_no_image_twice():
    label = np.repeat(np.arange(3), (10, 20, 6))
    rng = np.random.default_rng(0)
    for make in (split_sizes, half_sizes):
        sizes = make(np.bincount(label), np.array([12, 4, 2]))
        real, fake = baseline._draw(label, sizes, rng)
        assert not set(real) & set(fake)
        assert np.bincount(label[fake], minlength=3).tolist() == sizes.fake.tolist()
        assert np.all(sizes.real + sizes.fake <= [10, 20, 6])
        if make is half_sizes:
            assert sizes.fake.tolist() == [5, 4, 2]


@pytest.mark.parametrize(
    ("reals", "fakes", "features"),
    [
        pytest.param(90, 30, 128, marks=pytest.mark.slow),
        pytest.param(150, 50, 128, marks=pytest.mark.slow),
        (300, 75, 32),
    ],
)
def test_few_fakes_for_the_features_have_an_estimate_too(reals, fakes, features):
    found = perfect_and_estimated(
        World(0, features=features),
        lambda rng: np.zeros(reals, int),
        lambda rng: np.zeros(fakes, int),
        15,
        "fid",
    )
    perfect, estimated, one = found["fd_vectors"]
    assert one.kind == ESTIMATE
    assert estimated == pytest.approx(perfect, rel=0.05)


@pytest.mark.parametrize("few", [3, 8, 30])
def test_one_rare_class_does_not_spoil_the_estimate(few):
    label = np.repeat(np.arange(10), [110] * 9 + [few])
    found = perfect_and_estimated(
        World(10),
        lambda rng: rng.permutation(label),
        lambda rng: even(500, 10),
        10,
        "fid,ifid",
    )
    for name, (perfect, estimated, one) in found.items():
        if one.kind == ESTIMATE:
            assert estimated == pytest.approx(perfect, rel=0.08), name
        else:
            assert perfect < estimated < 3 * perfect
    names = {3: set(), 8: {"ifd_vectors"}, 30: {"fd_vectors", "ifd_vectors"}}
    assert found.keys() == names[few]


def test_a_class_too_small_for_two_sets_is_told():
    world, label = World(4), np.repeat(np.arange(4), (90, 90, 90, 3))
    label = world.rng.permutation(label)
    seen = world.scorer(label, 150, "fid,ifid")
    found, notes = baseline.baselines(seen, label[:150])
    assert "ifd_vectors" not in found and "ifd_vectors/0" in found
    assert any("fewer than four reals" in note for note in notes)


def test_chance_in_random_labels_costs_no_estimate():
    reals, rng = np.full(100, 30), np.random.default_rng(0)
    for _ in range(20):
        fakes = np.bincount(rng.integers(100, size=1600), minlength=100)
        assert split_sizes(reals, fakes, random=True).same_shares
    skewed = np.repeat([30, 2], 50)
    assert not split_sizes(reals, skewed, random=True).same_shares


def test_a_class_of_few_or_no_reals_has_no_stand_ins_for_many_fakes():
    for few in (0, 1):
        with pytest.raises(
            MetricError, match="too few reals for its share|has no reals"
        ):
            split_sizes(np.array([500, 500, few]), np.array([200, 200, 40]))
    sizes = split_sizes(np.array([500, 500, 60]), np.array([200, 200, 80]))
    assert not sizes.same_shares and np.all(sizes.real[:2] > 240)
    shares = sizes.fake / sizes.fake.sum()
    np.testing.assert_allclose(shares, [5 / 12, 5 / 12, 1 / 6], 0.05)


def test_few_fakes_have_as_many_stand_ins():
    sizes = split_sizes(np.array([900]), np.array([100]))
    assert sizes.total() == (900, 100, 800, 100)


def test_many_images_are_not_all_used():
    sizes = split_sizes(np.array([60_000]), np.array([50_000]))
    assert sizes.total()[2:] == (10_909, 9_091)


def test_a_score_that_grows_with_the_images_has_a_baseline_of_as_many_or_none():
    world = World(4)
    real, test = (world.draw(even(n, 4)) for n in (120, 40))
    for samples, there in ((40, True), (41, False)):
        seen = scoring.open_scorer(
            Comparison(metrics="is,accuracy", samples=samples, splits=2),
            scoring.Reals(real, real, test, 4),
            labelled=True,
        )
        found, notes = baseline.baselines(seen, generated.even_labels(samples, 4))
        assert ("is_classifier" in found) == there
        assert any("are 40, the samples 41" in note for note in notes) != there
        assert found["accuracy_classifier"].samples == 40


def test_what_has_no_baseline_says_why():
    seen = World(0).scorer(np.zeros(600, int), 300, "fid_infinity")
    found, notes = baseline.baselines(seen, None)
    assert found == {} and "fewer images are extrapolated less well" in notes[0]
