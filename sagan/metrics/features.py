"""Feature networks: they turn images into the vectors that metrics compare.

A new one is an entry of FEATURES: a function (FeatureRequest) -> FeatureNetwork.
"""

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PyTree, UInt8

from sagan.config.schema import ConfigError
from sagan.data.source import Examples
from sagan.metrics import classifier, efflite0, weights
from sagan.metrics.extract import Outputs, over_batches
from sagan.metrics.resize import RESIZES
from sagan.runtime import cache, exchange, processes
from sagan.runtime.progress import Progress, silent


class FeatureRequest(NamedTuple):
    """Everything that a feature network may need.

    Attributes:
      examples: The real training split; empty: there are only statistics.
      test: Real images of another split, to measure its accuracy; None without any.
      classes: Number of classes; 0: there are no labels.
      resize: A name in resize.RESIZES, for networks with an image size of their own.
      weights: File of weights, for networks not trained here; None: the cached ones.
      progress: Shows the progress of whatever takes long.
    """

    examples: Examples
    test: Examples | None
    classes: int
    resize: str = "tf1"
    weights: Path | None = None
    progress: Progress = silent


VERSION = 1  # raise it when the features of an unchanged network change
EMBEDDED = ("classifier", "rotation")  # trained on the reals
UNKNOWN = "not known"  # digest of a network whose weights are unknown


class FeatureNetwork(NamedTuple):
    """A network that is ready for images of one size.

    Attributes:
      name: Part of the names of its metrics; see `metric_name`.
      digest: SHA-256 of its weights.
      about: Further facts for the reader.
      reads_labels: Whether its logits are the classes of the data.
      has_classes: Whether its logits are classes at all.
      extract: (images [n h w c] uint8, progress) -> (features, logits).
    """

    name: str
    digest: str
    about: dict[str, str]
    reads_labels: bool
    has_classes: bool
    extract: Callable[..., Outputs]

    @property
    def key(self) -> str | None:
        """Digest of everything that decides an image's features; None if unknown."""
        if self.digest == UNKNOWN:
            return None
        facts = (self.digest, *self.about.items(), VERSION, jax.default_backend())
        return f"{self.name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"


def open_features(name: str, request: FeatureRequest) -> FeatureNetwork:
    """Opens the feature network of a name in FEATURES, or of `module:function`.

    "auto" is inception for colour images if its weights are given or cached, else
    classifier if there are labels, else rotation.

    Raises:
      ConfigError: The name is unknown, or the weights are not available.
    """
    if name == "auto":
        name = processes.broadcast_json(_best(request))
    if ":" in name:
        return of_callable(_imported(name), name.replace(":", "."))
    if name in EMBEDDED and not len(request.examples.image):
        raise ConfigError(
            f"the features {name} are trained on real images, and there are only"
            " statistics: choose --features inception or efflite0, or evaluate a run by"
            " eval.py --reference"
        )
    if name not in FEATURES:
        raise ConfigError(
            f"--features {name}: unknown; there are auto, {', '.join(FEATURES)}, and"
            " any module:function from images to vectors"
        )
    return FEATURES[name](request)


def of_callable(
    function: Callable[[np.ndarray], Any], name: str, digest: str = UNKNOWN
) -> FeatureNetwork:
    """Makes a feature network of a function from images [n h w c] uint8 to [n d].

    Raises:
      ConfigError: The name belongs to a network in FEATURES.
    """
    if name in FEATURES:
        raise ConfigError(f"a feature function called {name}: choose another name")

    def extract(image: np.ndarray, progress: Progress = silent) -> Outputs:
        vectors = []
        for start in progress(range(0, len(image), 256), f"features by {name}"):
            piece = image[start : start + 256]
            vector = np.asarray(function(piece), np.float32)
            if vector.ndim != 2 or len(vector) != len(piece):
                raise ConfigError(
                    f"--features {name}: gave an array of shape {vector.shape} for"
                    f" {len(piece)} images; must be [{len(piece)} d]"
                )
            vectors.append(vector)
        joined = np.concatenate(vectors)
        return joined, np.zeros((len(joined), 0), np.float32)

    return FeatureNetwork(name, digest, {}, False, False, extract)


def extractor(
    network: Any, variables: PyTree, resize: str = "tf1", batch: int = 32
) -> Any:
    """`over_batches` of a network for RGB images of its SIZE, as floats in [0, 255].

    Images of any size are resized, and grey ones get three equal channels. The network
    is compiled once for a size.

    Raises:
      ConfigError: `resize` is no name in RESIZES.
    """
    if resize not in RESIZES:
        raise ConfigError(f"resize {resize!r}: must be one of {', '.join(RESIZES)}")

    def resized(variables: PyTree, images: UInt8[Array, "n h w c"]) -> Any:
        return network.apply(variables, RESIZES[resize](images, network.SIZE))

    return over_batches(resized, variables, batch)


def metric_name(metric: str, network: FeatureNetwork) -> str:
    """The name of a metric with the features of a network.

    Only the Inception network's metrics have the names of the papers. Those of others
    carry the network's name, and FID, whose I is Inception, becomes fd_classifier.
    """
    if network.name == "inception":
        return metric
    name, slash, part = metric.partition("/")
    return f"{name.replace('fid', 'fd')}_{network.name}{slash}{part}"


def _best(request: FeatureRequest) -> str:
    colour = request.examples.image.shape[-1] == 3
    if colour and (request.weights or weights.cached().is_file()):
        return "inception"
    return "classifier" if request.classes else "rotation"


def _imported(name: str) -> Callable[[np.ndarray], Any]:
    module, _, function = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory, as for `python -m`
    try:
        imported = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--features {name}: cannot be imported: {error}") from error
    if not callable(imported):
        raise ConfigError(f"--features {name}: is not a function")
    return imported


def _inception(request: FeatureRequest) -> FeatureNetwork:
    return _published("inception", weights.INCEPTION, weights.load, request)


def _efflite0(request: FeatureRequest) -> FeatureNetwork:
    return _published("efflite0", efflite0.NETWORK, efflite0.load, request)


def _published(
    name: str, network: Any, load: Callable[..., Any], request: FeatureRequest
) -> FeatureNetwork:
    with exchange.together():
        loaded = load(request.weights)
    variables, digest = loaded
    resize = f"{request.resize}, to {network.SIZE}x{network.SIZE}"
    about = {"weights file sha256": digest, "resize": resize}
    extract = extractor(network, variables, request.resize)
    read = cache.digest(*jax.device_get(jax.tree.leaves(variables["params"])))
    return FeatureNetwork(name, read, about, False, True, extract)


def _classifier(request: FeatureRequest) -> FeatureNetwork:
    if not request.classes:
        raise ConfigError(
            "--features classifier: the data has no labels; use rotation or inception"
        )
    image, label = request.examples
    network = classifier.fit_once(image, label, request.classes, request.progress)
    extract = classifier.extractor(network)
    about = _accuracy(extract, request)
    return FeatureNetwork("classifier", network.digest, about, True, True, extract)


def _rotation(request: FeatureRequest) -> FeatureNetwork:
    image, turn = classifier.rotated(request.examples.image)
    network = classifier.fit_once(image, turn, 4, request.progress)
    extract = classifier.extractor(network)
    about: dict[str, str] = {"trained to tell": "by how much an image is turned"}
    return FeatureNetwork("rotation", network.digest, about, False, False, extract)


def _accuracy(
    extract: Callable[..., Outputs], request: FeatureRequest
) -> dict[str, str]:
    if request.test is None:
        return {}
    right = extract(request.test.image)[1].argmax(axis=1) == request.test.label
    return {"accuracy on held-out reals": f"{right.mean():.1%} of {len(right)}"}


FEATURES: dict[str, Callable[[FeatureRequest], FeatureNetwork]] = {
    "inception": _inception,
    "efflite0": _efflite0,
    "classifier": _classifier,
    "rotation": _rotation,
}
