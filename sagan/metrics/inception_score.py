"""Inception Score: confidence and diversity of a classifier's predictions."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float, Float64, Int

from sagan.metrics.interface import (
    Extracted,
    Measured,
    Metric,
    MetricError,
    join_pieces,
)
from sagan.runtime.progress import Progress, silent

_SEED = 2020  # torch-fidelity's
_ROWS = 4096  # rows in float64 at a time


@dataclasses.dataclass(frozen=True)
class InceptionScore(Metric):
    """exp(E KL(p(y|x) || p(y))) over the fakes, in splits and over all of them.

    `is` and `is_std` are the mean and population deviation over splits of the fakes in
    torch-fidelity's order; `is_single` has one split. A score is at most the number of
    classes, and grows with the number of images in a split.

    Source: Salimans et al. 2016 (arXiv:1606.03498), section 4; openai/improved-gan has
    ten splits in the order of the images, torch-fidelity 0.4.0 shuffles them first, the
    official SAGAN code (tfgan's `classifier_score_from_logits`) has one.
    """

    splits: int = 10
    keeps = ("logits",)
    logits = "classes"
    grows_with_samples = True
    reads_reals = "nothing"

    def update(self, state: Any, extracted: Extracted) -> Any:
        if not extracted.logits.shape[1]:
            raise MetricError("is: the feature network has no classes")
        return super().update(state, extracted)

    def compute(self, real: Any, fake: Any, progress: Progress = silent) -> Measured:
        """{"is", "is_std", "is_single"}.

        Raises:
          MetricError: There are fewer fakes than splits.
        """
        del real, progress
        logits = join_pieces(fake, "logits", "fake")
        n = len(logits)
        if n < self.splits:
            raise MetricError(f"{n} fake images: is needs at least {self.splits}")
        order = np.random.RandomState(_SEED).permutation(n)
        ends = np.arange(self.splits + 1) * n // self.splits
        parts = [_sums(logits, order[a:b]) for a, b in itertools.pairwise(ends)]
        p, information = (np.stack(sums) for sums in zip(*parts, strict=True))
        number = np.diff(ends)
        scores = _scores(p / number[:, None], information / number)
        single = _scores(p.sum(axis=0) / n, information.sum() / n)
        values = {"is": np.mean(scores), "is_std": np.std(scores), "is_single": single}
        return Measured({name: float(value) for name, value in values.items()})


def _sums(
    logits: Float[np.ndarray, "n k"], chosen: Int[np.ndarray, " m"]
) -> tuple[Float64[np.ndarray, " k"], float]:
    """Sums of p(y|x), and of sum_y p(y|x) log p(y|x), over the chosen images."""
    total, information = np.zeros(logits.shape[1]), 0.0
    for start in range(0, len(chosen), _ROWS):
        rows = logits[chosen[start : start + _ROWS]].astype(np.float64)
        log_p = scipy.special.log_softmax(rows, axis=1)
        p = np.exp(log_p)
        total += p.sum(axis=0)
        information += float((p * log_p).sum())
    return total, information


def _scores(p: Float64[np.ndarray, "*splits k"], information: Any) -> Any:
    """exp(H(p(y)) - E H(p(y|x))); the second term is minus the mean information.

    Classes without images do not count: x log x is 0 at 0.
    """
    return np.exp(scipy.special.entr(p).sum(axis=-1) + information)
