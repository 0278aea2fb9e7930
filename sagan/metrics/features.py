"""Feature networks: what turns images into the vectors that metrics compare.

A new one is an entry of FEATURES: a function (Asked) -> FeatureNetwork.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sagan.metrics import classifier, inception
from sagan.metrics.extract import Outputs
from sagan.metrics.protocol import Progress, silent
from sagan.schema import ConfigError
from sagan.source import Examples


class Asked(NamedTuple):
    """What a feature network may need.

    Attributes:
      examples: of the real training split.
      test: real examples of another split, to try it on; None: there are none.
      classes: of the labels; 0: there are none.
      resize: a name in resize.RESIZES, for networks with an image size of their own.
      weights: a file, for networks that are not trained here; None: the cache's.
      progress: told of everything that takes long.
    """

    examples: Examples
    test: Examples | None
    classes: int
    resize: str = "tf1"
    weights: Path | None = None
    progress: Progress = silent


class FeatureNetwork(NamedTuple):
    """A network, ready for images of one kind.

    Attributes:
      name: in the names of its numbers; see `metric_name`.
      digest: of its weights.
      about: what else a reader must know.
      reads_labels: its logits are the classes of the data.
      has_classes: its logits are classes at all.
      extract: (images [n h w c] uint8, progress) -> (features, logits).
    """

    name: str
    digest: str
    about: dict[str, str]
    reads_labels: bool
    has_classes: bool
    extract: Callable[..., Outputs]


def open_features(name: str, asked: Asked) -> FeatureNetwork:
    """The feature network of a name in FEATURES, or of `module:function`.

    "auto" is inception for colour images where its weights are given or in the cache,
    else classifier where there are labels, else rotation.

    Raises:
      ConfigError: there is none of this name, or its weights cannot be had.
    """
    if name == "auto":
        name = _best(asked)
    if ":" in name:
        return of_callable(_imported(name), name.replace(":", "."))
    if name not in FEATURES:
        raise ConfigError(
            f"--features {name}: unknown; there are auto, {', '.join(FEATURES)}, and"
            " any module:function from images to vectors"
        )
    return FEATURES[name](asked)


def of_callable(
    function: Callable[[np.ndarray], Any], name: str, digest: str = "not known"
) -> FeatureNetwork:
    """Features by any function from images [n h w c] uint8 to vectors [n d]."""

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


def metric_name(metric: str, network: FeatureNetwork) -> str:
    """The name under which a number of these features goes.

    Only the Inception network's are called as in papers. Those of others carry its
    name, and FID, which stands for Inception, is FD: fd_classifier.
    """
    if network.name == "inception":
        return metric
    name, slash, part = metric.partition("/")
    return f"{name.replace('fid', 'fd')}_{network.name}{slash}{part}"


def _best(asked: Asked) -> str:
    colour = asked.examples.image.shape[-1] == 3
    if colour and (asked.weights or inception.cached().is_file()):
        return "inception"
    return "classifier" if asked.classes else "rotation"


def _imported(name: str) -> Callable[[np.ndarray], Any]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--features {name}: cannot be imported: {error}") from error
    if not callable(found):
        raise ConfigError(f"--features {name}: is not a function")
    return found


def _inception(asked: Asked) -> FeatureNetwork:
    variables, digest = inception.load(asked.weights)
    about = {"resize": f"{asked.resize}, to 299x299"}
    extract = inception.extractor(variables, asked.resize)
    return FeatureNetwork("inception", digest, about, False, True, extract)


def _classifier(asked: Asked) -> FeatureNetwork:
    if not asked.classes:
        raise ConfigError(
            "--features classifier: the data has no labels; use rotation or inception"
        )
    image, label = asked.examples
    network = classifier.fit(image, label, asked.classes, asked.progress, keep=True)
    extract = classifier.extractor(network)
    about = _accuracy(extract, asked)
    return FeatureNetwork("classifier", network.digest, about, True, True, extract)


def _rotation(asked: Asked) -> FeatureNetwork:
    image, turn = classifier.rotated(asked.examples.image)
    network = classifier.fit(image, turn, 4, asked.progress, keep=True)
    extract = classifier.extractor(network)
    about: dict[str, str] = {"trained to tell": "by how much an image is turned"}
    return FeatureNetwork("rotation", network.digest, about, False, False, extract)


def _accuracy(extract: Callable[..., Outputs], asked: Asked) -> dict[str, str]:
    if asked.test is None:
        return {}
    right = extract(asked.test.image)[1].argmax(axis=1) == asked.test.label
    return {"accuracy on held-out reals": f"{right.mean():.1%} of {len(right)}"}


FEATURES: dict[str, Callable[[Asked], FeatureNetwork]] = {
    "inception": _inception,
    "classifier": _classifier,
    "rotation": _rotation,
}
