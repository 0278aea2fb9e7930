"""Metrics of generated images. A new one is an entry of METRICS."""

from sagan.metrics.accuracy import ClassAccuracy, ClassificationAccuracyScore
from sagan.metrics.fid import Frechet, FrechetInfinity, IntraClass
from sagan.metrics.inception_score import InceptionScore
from sagan.metrics.interface import Measured, Metric, MetricError, Seen
from sagan.metrics.kid import Kernel
from sagan.metrics.prdc import Neighbours

__all__ = ["METRICS", "Measured", "Metric", "MetricError", "Seen"]

METRICS: dict[str, Metric] = {
    "fid": Frechet(),
    "fid_infinity": FrechetInfinity(),
    "kid": Kernel(),
    "is": InceptionScore(),
    "prdc": Neighbours(),
    "ifid": IntraClass(),
    "accuracy": ClassAccuracy(),
    "cas": ClassificationAccuracyScore(),
}
