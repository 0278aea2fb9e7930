"""Every metric against plain NumPy, and against torch-fidelity and prdc if there."""

import sys
import types
import unittest.mock

import numpy as np
import pytest

from sagan.metrics import fid, inception_score, kid, prdc
from sagan.metrics.interface import Extracted
from tests.support import metrics_oracle as oracle

SUBSETS = 20  # enough to tell one draw from another


def regimes():
    """Reals and fakes by name; most of one shape, so that they compile once."""
    rng = np.random.default_rng(0)

    def normal(n=80, d=16):
        return rng.standard_normal((n, d))

    mixing = normal(16, 16) * np.geomspace(1, 1e-2, 16)
    alive = (np.arange(16) % 3 > 0).astype(float)  # a third of the features are dead
    copies = normal(12)[rng.integers(0, 12, 80)]
    same, sparse = normal(), [normal() * (normal() > 1), normal() * (normal() > 0.8)]
    lattice = [rng.integers(0, 3, (80, 16)).astype(float) for _ in range(2)]
    found = {
        "alike": (normal(), normal()),
        "shifted": (normal(), 1.2 * normal() + 0.3),
        "features are many": (normal(40, 64), 1.1 * normal(40, 64)),
        "reals many, fakes few": (normal(150, 32), normal(24, 32) + 0.2),
        "unequal numbers": (normal(131), 0.8 * normal(80)),
        "offset 1000": (normal() + 1000, normal() + 1000.2),
        "heavy tails": (rng.standard_t(3, (80, 16)), rng.standard_t(3, (80, 16)) + 1),
        "outlier first": (np.vstack([[[1e3] * 16], normal(79)]), normal()),
        "dead and sparse": (sparse[0] * alive, sparse[1] * alive),
        "copies": (normal(), copies),
        "copies of reals": (copies, copies[rng.permutation(80)] + 0.0),
        "lattice": (lattice[0], lattice[1]),
        "scaled by 1e-3": (1e-3 * normal(), 1.1e-3 * normal()),
        "scaled by 1e3": (1e3 * normal(), 1.1e3 * normal()),
        "correlated": (normal() @ mixing, normal() @ mixing + 0.1),
        "identical": (same, same),
        "apart": (normal(), normal() + 10),
    }
    return {
        name: tuple(x.astype(np.float32) for x in pair) for name, pair in found.items()
    }


REGIMES = regimes()
each_regime = pytest.mark.parametrize(
    ("real", "fake"), REGIMES.values(), ids=REGIMES.keys()
)


def state(metric, vector, label=None, logits=None):
    n = len(vector)
    extracted = Extracted(
        np.zeros((n, 1, 1, 1), np.uint8),
        np.zeros(n, np.int32) if label is None else label.astype(np.int32),
        vector,
        np.zeros((n, 0), np.float32) if logits is None else logits,
    )
    return metric.update(metric.empty(), extracted)


def values(metric, real, fake):
    return metric.compute(state(metric, real), state(metric, fake)).values


def close(found, wanted, absolute=0.0):
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(
            found[name], wanted[name], rtol=1e-6, atol=absolute, err_msg=name
        )


def spread(*sets):
    """The traces of the covariances: what a Fréchet distance is a difference of."""
    return sum(x.astype(float).var(axis=0, ddof=1).sum() for x in sets)


@each_regime
def test_fid_is_that_of_plain_numpy(real, fake):
    found = values(fid.FrechetDistance(), real, fake)
    # Distances of 0 and near have only the digits that the traces leave them.
    absolute = 1e-8 * spread(real, fake)
    close(found, {"fid": oracle.fid(real, fake)}, absolute)


@each_regime
def test_ifid_is_that_of_plain_numpy(real, fake):
    labels = [np.random.default_rng(1).permutation(len(x)) % 3 for x in (real, fake)]
    metric = fid.IntraClass()
    found = metric.compute(
        state(metric, real, labels[0]), state(metric, fake, labels[1])
    ).values
    each = oracle.intra_class_fid(real, labels[0], fake, labels[1])
    wanted = {f"ifid/{label}": value for label, value in each.items()}
    wanted["ifid"] = sum(each.values()) / 3
    close(found, wanted, absolute=1e-7 * spread(real, fake))


@each_regime
def test_kid_is_that_of_plain_numpy(real, fake):
    found = values(kid.KernelDistance(subsets=SUBSETS, size=12), real, fake)
    close(found, oracle.kid(real, fake, SUBSETS, 12))


@each_regime
def test_neighbours_are_those_of_plain_numpy(real, fake):
    found = values(prdc.PrecisionRecall(), real, fake)
    close(found, oracle.neighbours(real, fake))


def mirrored():
    """Ties that products round: points c + v and c - v about far centres c."""
    rng = np.random.default_rng(4)
    c = rng.integers(-(2**23), 2**23, (12, 1, 1024))
    v = rng.integers(-(2**23), 2**23, (12, 5, 1024))
    real = np.concatenate([c, c + v], axis=1).reshape(-1, 1024)
    return real.astype(np.float32), (c - v).reshape(-1, 1024).astype(np.float32)


def with_outlier(size):
    real, fake = REGIMES["shifted"]
    return np.vstack([np.full((1, 16), size, np.float32), real[1:]]), fake


def in_clusters():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 80, 16)) + 1000 * rng.integers(0, 2, (2, 80, 1))
    return tuple(x.astype(np.float32))


@pytest.mark.parametrize(
    ("real", "fake"),
    [
        mirrored(),
        with_outlier(1e9),
        in_clusters(),
        [x + np.float32(2**23) for x in REGIMES["lattice"]],  # still integers
    ],
    ids=["mirrored", "an outlier", "clusters", "lattice far away"],
)
def test_neighbours_survive_rounding(real, fake):
    found = values(prdc.PrecisionRecall(), real, fake)
    close(found, oracle.neighbours(real, fake))


def test_neighbours_in_many_blocks_are_those_of_one(monkeypatch):
    real, fake = REGIMES["unequal numbers"]
    blocks = lambda n, _: [(i, min(48, n - i)) for i in range(0, n, 48)]  # noqa: E731
    monkeypatch.setattr(prdc, "row_blocks", blocks)
    close(values(prdc.PrecisionRecall(), real, fake), oracle.neighbours(real, fake))


def test_kid_in_many_blocks_is_that_of_one(monkeypatch):
    real, fake = REGIMES["unequal numbers"]
    blocks = lambda n, _: [(i, min(48, n - i)) for i in range(0, n, 48)]  # noqa: E731
    monkeypatch.setattr(kid, "row_blocks", blocks)
    found = values(kid.KernelDistance(subsets=SUBSETS, size=12), real, fake)
    close(found, oracle.kid(real, fake, SUBSETS, 12))


def logits_of(name):
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((203, 12))
    return {
        "near even": 1e-2 * logits,
        "plain": 3 * logits,
        "sure": 40 * logits,
        "offset 1000": logits + 1000,
        "sorted": logits + 9 * (np.arange(203)[:, None] // 17 == np.arange(12)),
    }[name].astype(np.float32)


each_logits = pytest.mark.parametrize(
    "name", ["near even", "plain", "sure", "offset 1000", "sorted"]
)


@each_logits
def test_inception_score_is_that_of_plain_numpy(name):
    logits = logits_of(name)
    metric = inception_score.InceptionScore()
    found = metric.compute(None, state(metric, logits, logits=logits)).values
    # the deviation of scores near 1 is a difference of them
    close(found, oracle.inception_score(logits), absolute=1e-12)


@pytest.fixture(scope="session")
def fidelity():
    """torch-fidelity's functions of features, which use nothing of torchvision."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    names = ["torchvision", "torchvision.datasets", "torchvision.transforms"]
    with pytest.MonkeyPatch.context() as patch:
        for name in [*names, "torchvision.transforms.functional"]:
            # it is imported all the same, and there is none for PyTorch without CUDA
            patch.setitem(sys.modules, name, unittest.mock.MagicMock(__path__=[]))
        pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
        from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    return types.SimpleNamespace(
        fid=metric_fid, isc=metric_isc, kid=metric_kid, prc=metric_prc
    )


def tensors(*arrays):
    import torch

    return [torch.from_numpy(x.astype(np.float64)) for x in arrays]


@each_regime
def test_fid_is_that_of_torch_fidelity(fidelity, real, fake):
    statistics = [
        fidelity.fid.fid_features_to_statistics(x) for x in tensors(real, fake)
    ]
    theirs = fidelity.fid.fid_statistics_to_metric(*statistics, False)
    # The zero eigenvalues of a singular product come out as 1e-16 of the largest, and
    # theirs are their roots.
    d = real.shape[1]
    ranks = [np.linalg.matrix_rank(np.cov(x.T.astype(float))) for x in (real, fake)]
    absolute = (1e-9 if min(ranks) == d else 1e-6) * spread(real, fake)
    close(
        values(fid.FrechetDistance(), real, fake),
        {"fid": theirs["frechet_inception_distance"]},
        absolute,
    )


@each_regime
def test_kid_is_that_of_torch_fidelity(fidelity, real, fake):
    theirs = fidelity.kid.kid_features_to_metric(
        *tensors(fake, real),
        kid_subsets=SUBSETS,
        kid_subset_size=12,
        verbose=False,
    )
    ours = values(kid.KernelDistance(subsets=SUBSETS, size=12), real, fake)
    wanted = {
        "kid": theirs["kernel_inception_distance_mean"],
        "kid_std": theirs["kernel_inception_distance_std"],
    }
    close({name: ours[name] for name in wanted}, wanted)


@each_logits
def test_inception_score_is_that_of_torch_fidelity(fidelity, name):
    logits = logits_of(name)
    theirs = fidelity.isc.isc_features_to_metric(*tensors(logits))
    metric = inception_score.InceptionScore()
    ours = metric.compute(None, state(metric, logits, logits=logits)).values
    wanted = {
        "is": theirs["inception_score_mean"],
        "is_std": theirs["inception_score_std"],
    }
    close({name: ours[name] for name in wanted}, wanted, absolute=1e-12)


@each_regime
def test_improved_precision_is_that_of_torch_fidelity(fidelity, real, fake):
    if any(len(np.unique(x, axis=0)) < len(x) for x in (real, fake)) or real is fake:
        pytest.skip("torch.cdist does not find ties; the plain ones are compared above")
    theirs = fidelity.prc.prc_features_to_metric(*tensors(fake, real), verbose=False)
    ours = values(prdc.PrecisionRecall(), real, fake)
    wanted = {
        "improved_precision": theirs["precision"],
        "improved_recall": theirs["recall"],
    }
    close({name: ours[name] for name in wanted}, wanted)


@each_regime
def test_density_and_coverage_are_those_of_prdc(real, fake):
    prdc = pytest.importorskip("prdc", reason="prdc is not installed")
    if any(len(np.unique(x, axis=0)) < len(x) for x in (real, fake)) or real is fake:
        pytest.skip(
            "scikit-learn does not find ties; the plain ones are compared above"
        )
    real64, fake64 = real.astype(np.float64), fake.astype(np.float64)
    theirs = prdc.compute_prdc(real64, fake64, nearest_k=5)
    ours = values(prdc.PrecisionRecall(), real, fake)
    wanted = {
        "prdc_precision": theirs["precision"],
        "prdc_recall": theirs["recall"],
        "density": theirs["density"],
        "coverage": theirs["coverage"],
    }
    close({name: ours[name] for name in wanted}, wanted)
