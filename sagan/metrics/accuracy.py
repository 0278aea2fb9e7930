"""Class accuracy of samples, and of classifiers trained on samples."""

import dataclasses
from typing import Any

import numpy as np

from sagan.data.source import Examples
from sagan.metrics import classifier
from sagan.metrics.interface import Measured, Metric, MetricError, join_pieces
from sagan.runtime.progress import Progress, silent


@dataclasses.dataclass(frozen=True)
class ClassAccuracy(Metric):
    """Share of samples that the feature network classifies as their label.

    Needs a feature network whose logits are the classes of the data. A generator with
    one perfect image of each class scores 1: read it together with recall.
    """

    labelled = True
    logits = "labels"
    reads_reals = "nothing"
    keeps = ("label", "logits")

    def compute(self, real: Any, fake: Any, progress: Progress = silent) -> Measured:
        """{"accuracy"}, {"accuracy/3"} of class 3, {"confused/3/5"}, and so on.

        The last is the share of samples of class 3 that are classified as 5, for the
        class that it is most often taken for; absent if there is none.
        """
        del real, progress
        label, logits = (join_pieces(fake, name, "fake") for name in self.keeps)
        if label.max() >= logits.shape[1]:
            raise MetricError(
                f"label {label.max()} is none of the feature network's"
                f" {logits.shape[1]} classes"
            )
        found = logits.argmax(axis=1)
        values = {"accuracy": float((found == label).mean())}
        for k in np.unique(label):
            shares = np.bincount(found[label == k]) / (label == k).sum()
            values[f"accuracy/{k}"] = float(shares[k]) if k < len(shares) else 0.0
            shares[k : k + 1] = 0
            if shares.any():
                values[f"confused/{k}/{shares.argmax()}"] = float(shares.max())
        return Measured(values)


@dataclasses.dataclass(frozen=True)
class ClassificationAccuracyScore(Metric):
    """Trains the embedded classifier on fakes and tests it on reals, and vice versa.

    The reverse (GAN-test, Shmelkov et al. 2018, arXiv:1807.09499) trains on the reals
    of the comparison.

    Attributes:
      test: Held-out reals; None: tests on the reals of the comparison.
      reverse: Whether to compute the reverse too. With the classifier's own features,
        trained on the same reals, it would be ClassAccuracy again.

    Source: Ravuri and Vinyals 2019 (arXiv:1905.10887), with a ResNet-50 on ImageNet;
    smaller classifiers score lower.
    """

    test: Examples | None = None
    reverse: bool = True
    labelled = True
    featured = False
    in_sample = ("cas_reverse",)
    keeps = ("image", "label")

    def compute(self, real: Any, fake: Any, progress: Progress = silent) -> Measured:
        """{"cas"}, and {"cas_reverse"} with `reverse`, both in [0, 1]."""
        fakes = Examples(*(join_pieces(fake, name, "fake") for name in self.keeps))
        reals = Examples(*(join_pieces(real, name, "real") for name in self.keeps))
        test = self.test or reals
        notes = () if self.test else ("cas: no held-out split; tested on the reals",)
        values = {"cas": _score(fakes, test, progress)}
        if self.reverse:
            values["cas_reverse"] = _score(reals, fakes, progress, keep=True)
        else:
            notes += ("cas_reverse is left out: here it is accuracy_classifier again",)
        return Measured(values, notes)


def _score(
    train: Examples, test: Examples, progress: Progress, *, keep: bool = False
) -> float:
    classes = int(max(train.label.max(), test.label.max())) + 1
    fitted = classifier.fit(train.image, train.label, classes, progress, keep=keep)
    _, logits = classifier.extractor(fitted)(test.image)
    return float((logits.argmax(axis=1) == test.label).mean())
