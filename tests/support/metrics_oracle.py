"""The metrics of features once more: plain NumPy and SciPy, in float64, all at once."""

import numpy as np
from scipy.spatial.distance import cdist


def fid(real, fake):
    """Eigenvalues of the product of covariances, through the smaller of its forms.

    X^T X Y^T Y and (Y X^T)(X Y^T) have the same eigenvalues but for zeros; the roots of
    those zeros are what makes the larger form inexact.
    """
    real, fake = np.asarray(real, float), np.asarray(fake, float)
    x = (real - real.mean(axis=0)) / np.sqrt(len(real) - 1)
    y = (fake - fake.mean(axis=0)) / np.sqrt(len(fake) - 1)
    if min(len(x), len(y)) <= x.shape[1]:
        cross = y @ x.T
        product = cross @ cross.T if len(y) < len(x) else cross.T @ cross
        values = np.linalg.eigvalsh(product)
    else:
        values = np.linalg.eigvals(np.cov(real.T) @ np.cov(fake.T)).real
    root = np.sqrt(np.clip(values, 0, None)).sum()
    difference = real.mean(axis=0) - fake.mean(axis=0)
    return difference @ difference + (x**2).sum() + (y**2).sum() - 2 * root


def intra_class_fid(real, real_label, fake, fake_label):
    return {
        int(c): fid(real[real_label == c], fake[fake_label == c])
        for c in np.unique(real_label)
    }


def mmd2(x, y):
    x, y = np.asarray(x, float), np.asarray(y, float)

    def k(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def off_diagonal(matrix):
        return matrix[~np.eye(len(matrix), dtype=bool)].mean()

    return off_diagonal(k(x, x)) + off_diagonal(k(y, y)) - 2 * k(x, y).mean()


def kid(real, fake, subsets, size):
    rng = np.random.RandomState(2020)
    found = []
    for _ in range(subsets):
        first = rng.choice(len(fake), size, replace=False)
        second = rng.choice(len(real), size, replace=False)
        found.append(mmd2(fake[first], real[second]))
    return {
        "kid": np.mean(found),
        "kid_std": np.std(found),
        "kid_full": mmd2(fake, real),
    }


def inception_score(logits, splits=10):
    logits = np.asarray(logits, float)
    shuffled = logits[np.random.RandomState(2020).permutation(len(logits))]

    def score(part):
        p = np.exp(part - part.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        marginal = p.mean(axis=0)
        divergences = []
        for row in p:
            alive = row > 0
            ratio = np.log(row[alive] / marginal[alive])
            divergences.append((row[alive] * ratio).sum())
        return np.exp(np.mean(divergences))

    n = len(logits)
    bounds = [(i * n // splits, (i + 1) * n // splits) for i in range(splits)]
    scores = [score(shuffled[a:b]) for a, b in bounds]
    return {
        "is": np.mean(scores),
        "is_std": np.sqrt(np.mean((scores - np.mean(scores)) ** 2)),
        "is_single": score(logits),
    }


def neighbours(real, fake):
    real, fake = np.asarray(real, float), np.asarray(fake, float)
    between = cdist(real, fake)

    def radii(x, k):
        rows = cdist(x, x)
        return np.array(
            [np.sort(np.delete(row, i))[k - 1] for i, row in enumerate(rows)]
        )

    real3, fake3 = radii(real, 3)[:, None], radii(fake, 3)[None, :]
    real5, fake5 = radii(real, 5)[:, None], radii(fake, 5)[None, :]
    return {
        "improved_precision": (between <= real3).any(axis=0).mean(),
        "improved_recall": (between <= fake3).any(axis=1).mean(),
        "prdc_precision": (between < real5).any(axis=0).mean(),
        "prdc_recall": (between < fake5).any(axis=1).mean(),
        "density": (between < real5).sum(axis=0).mean() / 5,
        "coverage": (between.min(axis=1) < real5[:, 0]).mean(),
    }
