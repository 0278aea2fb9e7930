"""Metrics of generated images. A new one is an entry of METRICS."""

from sagan.metrics.accuracy import ClassAccuracy, ClassificationAccuracyScore
from sagan.metrics.fid import FrechetDistance, FrechetInfinity, IntraClass
from sagan.metrics.inception_score import InceptionScore
from sagan.metrics.interface import Extracted, Measured, Metric, MetricError
from sagan.metrics.kid import KernelDistance
from sagan.metrics.memorisation import Memorisation
from sagan.metrics.prdc import PrecisionRecall

__all__ = ["METRICS", "Measured", "Metric", "MetricError", "Extracted"]

METRICS: dict[str, Metric] = {
    "fid": FrechetDistance(),
    "fid_infinity": FrechetInfinity(),
    "kid": KernelDistance(),
    "is": InceptionScore(),
    "prdc": PrecisionRecall(),
    "ifid": IntraClass(),
    "accuracy": ClassAccuracy(),
    "cas": ClassificationAccuracyScore(),
    "memorisation": Memorisation(),
}
