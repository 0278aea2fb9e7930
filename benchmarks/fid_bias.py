"""Shows how FID and FID-infinity of two known Gaussians depend on the sample size.

python benchmarks/fid_bias.py [--features 64] [--repeats 5]

Prints means and deviations over draws of the samples; the last column is the true
distance. There are 50,000 real vectors, and the bias from their number stays in both.
"""

import argparse

import numpy as np

from sagan.metrics import fid, gaussian
from sagan.metrics.interface import Extracted

REALS = 50_000
NUMBERS = (500, 1000, 2000, 5000, 10_000, 20_000)


def state(metric, vector):
    n = len(vector)
    image, label = np.zeros((n, 1, 1, 1), np.uint8), np.zeros(n, np.int32)
    extracted = Extracted(image, label, vector, np.zeros((n, 0), np.float32))
    return metric.update(metric.empty(), extracted)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    d, rng = args.features, np.random.default_rng(0)
    scales = np.arange(1, d + 1) ** -0.5, 1.1 * np.arange(1, d + 1) ** -0.5
    means = np.zeros(d), np.full(d, 0.05)
    known = [
        gaussian.Gaussian(mean, np.diag(scale))
        for mean, scale in zip(means, scales, strict=True)
    ]
    truth = gaussian.frechet_distance(*known)

    def draw(which, n):
        drawn = rng.standard_normal((n, d)) * scales[which] + means[which]
        return drawn.astype(np.float32)

    metrics = {"fid": fid.FrechetDistance(), "fid_infinity": fid.FrechetInfinity()}
    reals = {name: state(metrics[name], draw(0, REALS)) for name in metrics}
    print(f"{'N':>6} {'fid':>18} {'fid_infinity':>18} {'truth':>8}")
    for n in NUMBERS:
        found = {name: [] for name in metrics}
        for _ in range(args.repeats):
            fakes = draw(1, n)
            for name, metric in metrics.items():
                measured = metric.compute(reals[name], state(metric, fakes))
                found[name].append(measured.values[name])
        cells = [f"{np.mean(v):9.4f} +- {np.std(v):.4f}" for v in found.values()]
        print(f"{n:6} {cells[0]:>18} {cells[1]:>18} {truth:8.4f}", flush=True)


if __name__ == "__main__":
    main()
