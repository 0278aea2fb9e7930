import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from sagan.metrics import gaussian
from sagan.metrics.fid import FrechetDistance, FrechetInfinity, IntraClass
from sagan.metrics.gaussian import Gaussian, frechet_distance
from sagan.metrics.inception_score import InceptionScore
from sagan.metrics.interface import Extracted, MetricError, row_blocks
from sagan.metrics.kid import KernelDistance
from sagan.metrics.memorisation import Memorisation
from sagan.metrics.prdc import PrecisionRecall

ALL = [
    FrechetDistance(),
    FrechetInfinity(),
    IntraClass(),
    KernelDistance(subsets=5, size=20),
    InceptionScore(),
    PrecisionRecall(),
]
of_vectors = [metric for metric in ALL if not isinstance(metric, InceptionScore)]


def name(metric):
    return type(metric).__name__


each_metric = pytest.mark.parametrize("metric", ALL, ids=name)
each_of_vectors = pytest.mark.parametrize("metric", of_vectors, ids=name)


def extracted(vector, label=None, logits=None):
    vector = np.asarray(vector, np.float32)
    n = len(vector)
    return Extracted(
        image=np.zeros((n, 1, 1, 1), np.uint8),
        label=np.zeros(n, np.int32) if label is None else np.asarray(label, np.int32),
        vector=vector,
        logits=np.asarray(vector if logits is None else logits, np.float32),
    )


def some(n=200, seed=0, d=6):
    rng = np.random.default_rng(seed)
    vector = (1 + 0.1 * seed) * rng.standard_normal((n, d))
    return extracted(vector, rng.integers(0, 3, n), rng.standard_normal((n, 5)))


def part(one, start, stop):
    return Extracted(*(field[start:stop] for field in one))


def state(metric, *batches):
    found = metric.empty()
    for batch in batches:
        found = metric.update(found, batch)
    return found


def measure(metric, real, fake):
    return metric.compute(state(metric, real), state(metric, fake))


def in_pieces(metric, one):
    """The state of four pieces, one of them empty."""
    ends = [(0, 7), (7, 40), (0, 0), (40, len(one.label))]
    return state(metric, *(part(one, *piece) for piece in ends))


@each_metric
def test_pieces_say_what_one_pass_says(metric):
    real, fake = some(seed=0), some(seed=1)
    whole = measure(metric, real, fake)
    parts = metric.compute(in_pieces(metric, real), in_pieces(metric, fake))
    assert parts.notes == whole.notes
    assert parts.values == pytest.approx(whole.values, rel=1e-9)


@each_metric
def test_a_state_is_not_changed_by_what_follows(metric):
    first = state(metric, some(30))
    before = jax.tree.map(np.copy, getattr(first, "__dict__", first))
    metric.update(first, some(30, seed=1))
    after = getattr(first, "__dict__", first)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))


@each_metric
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["vector", "logits"])
def test_what_is_not_finite_is_refused_by_image(metric, bad, field):
    one = some(30)
    values = getattr(one, field).copy()
    values[17, 2] = bad
    with pytest.raises(MetricError, match=f"{field}.* 1 of 30 images, image 17 first"):
        metric.update(metric.empty(), one._replace(**{field: values}))


@each_of_vectors
@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("which", ["real", "fake"])
def test_too_few_images_are_refused_by_name(metric, n, which):
    sets = {"real": some(), "fake": some(seed=1)}
    sets[which] = part(sets[which], 0, n)
    with pytest.raises(MetricError, match=which):
        measure(metric, sets["real"], sets["fake"])


@each_metric
def test_the_numbers_are_floats(metric):
    found = measure(metric, some(), some(seed=1))
    assert all(type(value) is float for value in found.values.values())


def test_what_the_metrics_need():
    assert [name(m) for m in ALL if m.labelled] == ["IntraClass"]
    assert [name(m) for m in ALL if m.paired] == ["PrecisionRecall"]


# Gaussians and FID


def test_moments_far_from_zero_are_exact():
    x = np.random.default_rng(0).standard_normal((9001, 4)) + 1000
    found = gaussian.NOTHING
    for start in range(0, 9001, 70):
        found = gaussian.merge(found, gaussian.moments(x[start : start + 70]))
    for each in (found, gaussian.moments(x)):
        assert each.n == 9001
        np.testing.assert_allclose(each.mean, x.mean(axis=0), rtol=1e-14)
        covariance = np.cov(x - 1000, rowvar=False)
        np.testing.assert_allclose(each.scatter / 9000, covariance, atol=1e-12)


@pytest.mark.parametrize("n", [2, 5, 6, 7, 40])
def test_features_and_their_moments_give_one_gaussian(n):
    x = some(n, d=6).vector
    a = gaussian.from_features(x, "real")
    b = gaussian.from_moments(gaussian.moments(x), "real")
    np.testing.assert_allclose(a.factor @ a.factor.T, np.cov(x.T), atol=1e-6)
    np.testing.assert_allclose(a.factor @ a.factor.T, b.factor @ b.factor.T, atol=1e-12)
    np.testing.assert_allclose(a.mean, b.mean, atol=1e-14)
    assert b.factor.shape[1] == min(n - 1, 6)


def test_few_images_need_no_covariance_matrix():
    x = some(4, d=300_000).vector  # 670 GiB as a matrix
    assert gaussian.from_features(x, "real").factor.shape == (300_000, 4)


def rotation(d):
    return np.linalg.qr(np.random.default_rng(3).standard_normal((d, d)))[0]


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        # One feature: (mu_a - mu_b)^2 + (sigma_a - sigma_b)^2.
        (Gaussian(np.ones(1), 2 * np.eye(1)), Gaussian(np.zeros(1), 5 * np.eye(1)), 10),
        # Equal axes: the sum of that over them; the same after a rotation.
        (
            Gaussian(np.zeros(3), np.diag([1.0, 2.0, 3.0])),
            Gaussian(np.zeros(3), np.diag([4.0, 2.0, 1.0])),
            9 + 0 + 4,
        ),
        (
            Gaussian(np.zeros(3), rotation(3) @ np.diag([1.0, 2.0, 3.0])),
            Gaussian(np.zeros(3), rotation(3) @ np.diag([4.0, 2.0, 1.0])),
            9 + 0 + 4,
        ),
        # Two lines at right angles: nothing of them is shared.
        (
            Gaussian(np.zeros(2), np.array([[2.0], [0.0]])),
            Gaussian(np.zeros(2), np.array([[0.0], [3.0]])),
            4 + 9,
        ),
        # At 60 degrees the root of C_a C_b has the trace |f_a . f_b|.
        (
            Gaussian(np.zeros(2), np.array([[1.0], [0.0]])),
            Gaussian(np.zeros(2), np.array([[0.5], [math.sqrt(0.75)]])),
            1 + 1 - 2 * 0.5,
        ),
        # A factor of one column beside one of three.
        (Gaussian(np.zeros(3), np.eye(3)), Gaussian(np.zeros(3), np.eye(3)[:, :1]), 2),
    ],
)
def test_frechet_distance_by_hand(a, b, distance):
    assert frechet_distance(a, b) == pytest.approx(distance, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-12)


@pytest.mark.parametrize("n", [2, 5, 31, 32, 33, 34, 100, 1000])
@pytest.mark.parametrize("metric", [FrechetDistance(), IntraClass()], ids=name)
def test_identical_sets_are_at_distance_zero(metric, n):
    one = some(n, d=32)._replace(label=np.zeros(n, np.int32))
    for found in measure(metric, one, one).values.values():
        assert abs(found) < 1e-11


@pytest.mark.parametrize("n", [3, 40])
def test_fid_of_constant_features_is_the_distance_of_their_means(n):
    real, fake = extracted(np.full((n, 6), 2.0)), extracted(np.full((n, 6), 5.0))
    assert measure(FrechetDistance(), real, fake).values == {
        "fid": pytest.approx(6 * 9.0)
    }


def known():
    """Two Gaussians, their distance, and a way to draw features from them."""
    d = 16
    scales = 1.0 / np.arange(1, d + 1), 1.3 / np.arange(1, d + 1)
    a, b = (Gaussian(np.full(d, i * 0.1), np.diag(s)) for i, s in enumerate(scales))

    def draw(which, n, seed):
        x = np.random.default_rng(seed).standard_normal((n, d))
        return extracted(which.mean + x @ which.factor)

    return a, b, frechet_distance(a, b), draw


def test_fid_comes_down_to_the_distance_as_one_over_n():
    a, b, truth, draw = known()

    def excess(n):
        drawn = [draw(b, n, seed).vector for seed in range(400)]
        found = [frechet_distance(a, gaussian.from_features(x, "fake")) for x in drawn]
        return np.mean(found) - truth

    few, many = excess(100), excess(400)
    assert few > many > 0
    assert few / many == pytest.approx(4, rel=0.15)


def test_fid_infinity_is_nearer_to_the_distance_than_fid():
    a, b, truth, draw = known()
    reals = draw(a, 40_000, 0)
    real, real_moments = (
        state(FrechetInfinity(), reals),
        state(FrechetDistance(), reals),
    )
    errors = []
    for seed in range(1, 7):
        fakes = draw(b, 300, seed)
        infinite = FrechetInfinity().compute(real, state(FrechetInfinity(), fakes))
        finite = FrechetDistance().compute(
            real_moments, state(FrechetDistance(), fakes)
        )
        found = infinite.values["fid_infinity"], finite.values["fid"]
        errors.append([value - truth for value in found])
        again = FrechetInfinity().compute(real, state(FrechetInfinity(), fakes))
        assert again == infinite
    by_infinity, by_fid = np.mean(errors, axis=0)
    assert abs(by_infinity) < 0.5 * by_fid


def test_fid_infinity_says_when_its_subsets_are_too_small():
    few = measure(FrechetInfinity(), some(300), some(240, d=6))
    assert few.notes == ()
    few = measure(FrechetInfinity(), some(300, d=20), some(200, d=20))
    assert "20 fakes for 20 features" in few.notes[0]
    with pytest.raises(MetricError, match="199 fake images"):
        measure(FrechetInfinity(), some(300), some(199))


# By class


def test_ifid_is_the_mean_over_classes():
    metric, real, fake = IntraClass(), some(), some(seed=1)
    found = measure(metric, real, fake).values
    for label in range(3):
        sets = [
            extracted(one.vector[one.label == label], one.label[one.label == label])
            for one in (real, fake)
        ]
        alone = measure(FrechetDistance(), *sets).values["fid"]
        assert found[f"ifid/{label}"] == pytest.approx(alone, rel=1e-9)
    each = [found[f"ifid/{label}"] for label in range(3)]
    assert found["ifid"] == pytest.approx(sum(each) / 3, rel=1e-12)
    assert found["ifid"] > measure(FrechetDistance(), real, fake).values["fid"]


def test_ifid_sees_swapped_labels_and_fid_does_not():
    real = some()
    real = real._replace(vector=real.vector + 3 * real.label[:, None].astype("f4"))
    fake = real._replace(label=(real.label + 1) % 3)
    assert measure(FrechetDistance(), real, fake).values["fid"] == pytest.approx(
        0, abs=1e-9
    )
    assert measure(IntraClass(), real, fake).values["ifid"] > 10


def test_ifid_names_the_classes_that_it_is_without():
    real = extracted(some(9).vector, [0, 0, 0, 1, 1, 1, 2, 5, 5])
    fake = extracted(some(9, seed=1).vector, [0, 0, 0, 0, 1, 2, 2, 2, 7])
    values, notes = measure(IntraClass(), real, fake)
    assert values.keys() == {"ifid", "ifid/0"}
    assert values["ifid"] == values["ifid/0"]
    assert len(notes) == 1
    for left_out in (
        "class 1 (1 fake, 3 real)",
        "class 2 (3 fake, 1 real)",
        "class 5 (0 fake, 2 real)",
        "class 7 (1 fake, 0 real)",
    ):
        assert left_out in notes[0]


def test_ifid_without_any_class_is_refused():
    real, fake = extracted(some(4).vector, [0] * 4), extracted(some(4).vector, [1] * 4)
    with pytest.raises(MetricError, match=r"class 0 \(0 fake, 4 real\), class 1"):
        measure(IntraClass(), real, fake)


# Inception score


def logits_of(p):
    p = np.asarray(p, float)
    return extracted(np.zeros((len(p), 1)), logits=np.log(np.maximum(p, 1e-30)))


def test_inception_score_by_hand():
    # KL of (.9, .1) from (.5, .5), the mean of both.
    kl = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    metric = InceptionScore(splits=1)
    found = measure(metric, some(), logits_of([[0.9, 0.1], [0.1, 0.9]])).values
    expected = pytest.approx(math.exp(kl), rel=1e-6)
    assert found == {"is": expected, "is_single": expected, "is_std": 0.0}


@pytest.mark.parametrize(
    ("p", "score"),
    [
        (np.full((40, 4), 0.25), 1.0),  # never sure
        (np.eye(4)[np.zeros(40, int)], 1.0),  # always of one class
        (np.eye(4)[np.arange(40) % 4], 4.0),  # sure, and of four
        (np.eye(9)[np.arange(40) % 4], 4.0),  # of nine that there are
    ],
)
def test_inception_score_is_the_number_of_classes_that_are_seen(p, score):
    found = measure(InceptionScore(splits=1), some(), logits_of(p)).values
    assert found["is_single"] == pytest.approx(score, rel=1e-6)


def test_inception_score_with_zero_probabilities_is_finite():
    logits = 1e4 * np.eye(3)[np.arange(30) % 2]  # exp(-1e4) is 0, and class 2 unseen
    fake = extracted(np.zeros((30, 1)), logits=logits)
    found = measure(InceptionScore(splits=3), some(), fake).values
    assert found["is_single"] == pytest.approx(2, rel=1e-9)


def test_inception_score_of_sorted_images_is_not_that_of_one_class_a_split():
    p = np.eye(5)[np.arange(500) // 100]
    found = measure(InceptionScore(splits=5), some(), logits_of(p)).values
    assert found["is"] > 4.5


def test_inception_score_is_of_the_fakes_alone():
    metric, fake = InceptionScore(), some(seed=1)
    assert metric.compute(None, state(metric, fake)) == measure(metric, some(), fake)


def test_inception_score_refuses_what_has_none():
    with pytest.raises(MetricError, match="no classes"):
        state(InceptionScore(), extracted(np.zeros((20, 3)), logits=np.zeros((20, 0))))
    with pytest.raises(MetricError, match="9 fake images: is needs at least 10"):
        measure(InceptionScore(), some(), some(9))
    with pytest.raises(MetricError, match="no fake images"):
        measure(InceptionScore(), some(), some(0))


# KernelDistance


def test_kid_by_hand():
    # (0 * 1 + 1)^3 across, (0 + 1)^3 within the fakes, (1 * 1 + 1)^3 within the reals.
    found = measure(
        KernelDistance(size=2), extracted(np.ones((4, 1))), extracted(np.zeros((4, 1)))
    )
    assert found.values == {"kid": 7.0, "kid_std": 0.0, "kid_full": 7.0}
    # Fakes 0, 0, 2, 2: of 12 pairs 4 have a product of 4, the others none.
    fakes = extracted([[0], [0], [2], [2]])
    within = (2 * 5**3 + 10) / 12
    across = (2 * 3**3 + 2) / 4
    found = measure(KernelDistance(size=2), extracted(np.ones((4, 1))), fakes).values[
        "kid_full"
    ]
    assert found == pytest.approx(within + 8 - 2 * across)


def test_kid_of_two_draws_of_one_distribution_is_zero_on_average():
    metric = KernelDistance(subsets=1, size=2)
    found = [
        measure(metric, extracted(one), extracted(other)).values["kid_full"]
        for one, other in np.random.default_rng(0).standard_normal((60, 2, 40, 4))
    ]
    assert abs(np.mean(found)) < 2 * np.std(found) / math.sqrt(60)
    assert min(found) < 0


def test_kid_has_smaller_subsets_of_few_images_and_says_so():
    found = measure(KernelDistance(subsets=5, size=20), some(40), some(40, seed=1))
    assert found.notes == ()
    found = measure(KernelDistance(subsets=5, size=40), some(40), some(39, seed=1))
    assert found.notes == ("kid: subsets of 19 images, not of 40",)
    same = measure(KernelDistance(subsets=5, size=19), some(40), some(39, seed=1))
    assert same.values == found.values
    with pytest.raises(MetricError, match="3 are fake, 40 real"):
        measure(KernelDistance(), some(40), some(3))


# PrecisionRecall


def test_neighbours_by_hand():
    # Radii of the reals to the third: 3 2 2 2 2 3, to the fifth: 5 4 3 3 4 5.
    real = extracted(np.arange(6.0)[:, None])
    # Of the fakes: 13 12 10 11 12 13, and 25 23 12 13 14 15.
    fake = extracted(np.array([[8.0], [10], [20], [21], [22], [33]]))
    # To the third: 8 has 2 12 13, 10 has 2 10 11, 20 has 1 2 10, 21 has 1 1 11,
    # 22 has 1 2 11, 33 has 11 12 13. To the fifth: 25 23 13 13 14 25.
    found = measure(PrecisionRecall(), real, fake).values
    expected = {
        "improved_precision": 1 / 6,  # 8 is on the rim of the ball of 5
        "improved_recall": 1.0,  # 8 - 13 < 0
        "prdc_precision": 1 / 6,  # 10 is on the rim of that of 5, and not in it
        "prdc_recall": 1.0,
        "density": 1 / (5 * 6),  # 8 in that of 5, on the rim of that of 4
        "coverage": 1 / 6,
    }
    assert found == pytest.approx(expected)


def test_the_rim_counts_for_improved_only():
    one = extracted(np.full((8, 3), 0.1))
    found = measure(PrecisionRecall(), one, one).values
    assert found["improved_precision"] == found["improved_recall"] == 1
    for other in ("prdc_precision", "prdc_recall", "density", "coverage"):
        assert found[other] == 0


@pytest.mark.parametrize("offset", [0, 1000])
def test_of_identical_sets_every_image_is_covered(offset):
    one = some(97, d=48)
    one = one._replace(vector=one.vector + np.float32(offset))
    found = measure(PrecisionRecall(), one, one).values
    assert set(found.values()) == {1.0}  # each ball has itself and four inside


def test_dropped_modes_lower_recall_and_coverage_alone():
    rng = np.random.default_rng(0)
    mode = rng.integers(0, 2, 120)
    real = extracted(rng.standard_normal((120, 6)) + 50.0 * mode[:, None])
    fake = extracted(rng.standard_normal((120, 6)))
    found = measure(PrecisionRecall(), real, fake).values
    assert min(found["improved_precision"], found["prdc_precision"]) > 0.8
    for low in ("improved_recall", "prdc_recall", "coverage"):
        assert found[low] < 0.6


def test_neighbours_need_more_images_than_k():
    measure(PrecisionRecall(), some(6), some(6, seed=1))
    for real, fake, which in ((5, 9, "real"), (9, 5, "fake")):
        with pytest.raises(MetricError, match=f"5 {which} images"):
            measure(PrecisionRecall(), some(real), some(fake))


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (50_000, 50_000), (7, 2**30)])
def test_row_blocks_are_small_and_leave_nothing_out(n, columns):
    blocks = row_blocks(n, columns)
    rows = [row for start, size in blocks for row in range(start, start + size)]
    assert rows == list(range(n))
    assert len({size for _, size in blocks}) <= 2
    assert all(size == 1 or 8 * size * columns <= 2**27 for _, size in blocks)


@pytest.mark.parametrize(
    "metric",
    [FrechetInfinity(), IntraClass(), KernelDistance(), PrecisionRecall()],
    ids=name,
)
def test_progress_is_told_and_precision_left_alone(metric):
    told = []

    def progress(items, what):
        assert len(items) > 0 and what
        for item in items:
            told.append(what)
            yield item

    real, fake = state(metric, some()), state(metric, some(seed=1))
    assert metric.compute(real, fake, progress) == metric.compute(real, fake)
    assert told
    assert not jax.config.read("jax_enable_x64")
    assert jnp.ones(()).dtype == jnp.float32


# Memorisation


def test_memorisation_is_a_ratio_of_median_distances():
    training, held_out = some(300), some(100, seed=0, d=6)
    held_out = held_out._replace(vector=held_out.vector + 0.5, label=0 * held_out.label)
    metric, fresh = Memorisation(held_out=held_out), some(200, seed=5).vector
    real = metric.prepare(state(metric, training))
    for fakes in (fresh, training.vector[:100]):
        found = metric.compute(real, state(metric, extracted(fakes))).values
        distances = [
            cdist(x, training.vector).min(axis=1) for x in (fakes, held_out.vector)
        ]
        expected = np.median(distances[0]) / np.median(distances[1])
        assert found["memorisation"] == pytest.approx(expected, abs=1e-6)
        near = np.mean(distances[0] < np.percentile(distances[1], 1))
        assert found["memorisation_duplicates"] == near
    assert found["memorisation"] == pytest.approx(0, abs=1e-6)  # copies
    assert found["memorisation_duplicates"] == 1


def test_copies_show_in_the_duplicates_where_the_median_is_blind():
    rng = np.random.default_rng(0)
    training, held_out, fresh = (rng.standard_normal((n, 6)) for n in (900, 400, 400))
    metric = Memorisation(held_out=extracted(held_out))
    real = metric.prepare(state(metric, extracted(training)))
    found = metric.compute(real, state(metric, extracted(fresh))).values
    assert found["memorisation"] == pytest.approx(1, abs=0.08)
    assert found["memorisation_duplicates"] < 0.04
    some_copies = np.concatenate([fresh[:300], training[:100]])
    found = metric.compute(real, state(metric, extracted(some_copies))).values
    assert found["memorisation"] > 0.8 and found["memorisation_duplicates"] > 0.25


def test_memorisation_compares_equal_shares_of_classes():
    """Class 0 is spread out and class 1 dense; samples of class 1 are no copies."""
    rng = np.random.default_rng(0)

    def draw(counts):
        label = np.repeat([0, 1], counts)
        scale = np.where(label == 0, 1.0, 0.1)[:, None]
        return extracted(
            scale * rng.standard_normal((len(label), 4)) + 9 * scale, label
        )

    metric = Memorisation(held_out=draw((300, 100)))
    real = metric.prepare(state(metric, draw((500, 500))))
    found = metric.compute(real, state(metric, draw((0, 300)))).values
    assert found["memorisation"] == pytest.approx(1, abs=0.15)
