"""Feature networks: what turns images into the vectors that metrics compare.

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
from flax.traverse_util import flatten_dict

from sagan.config.schema import ConfigError
from sagan.data.source import Examples
from sagan.metrics import classifier, inception, weights
from sagan.metrics.extract import Outputs
from sagan.runtime import cache
from sagan.runtime.progress import Progress, silent


class FeatureRequest(NamedTuple):
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


VERSION = 1  # goes up with every change that changes the features of a digest
UNKNOWN = "not known"  # the digest of a function's weights


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

    @property
    def key(self) -> str | None:
        """All that decides the features of an image; None: that is not known."""
        if self.digest == UNKNOWN:
            return None
        facts = (self.digest, *self.about.items(), VERSION, jax.default_backend())
        return f"{self.name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"


def open_features(name: str, asked: FeatureRequest) -> FeatureNetwork:
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
    function: Callable[[np.ndarray], Any], name: str, digest: str = UNKNOWN
) -> FeatureNetwork:
    """Features by any function from images [n h w c] uint8 to vectors [n d].

    Raises:
      ConfigError: the name is that of a network of FEATURES, whose numbers these are
        not.
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


def metric_name(metric: str, network: FeatureNetwork) -> str:
    """The name under which a number of these features goes.

    Only the Inception network's are called as in papers. Those of others carry its
    name, and FID, which stands for Inception, is FD: fd_classifier.
    """
    if network.name == "inception":
        return metric
    name, slash, part = metric.partition("/")
    return f"{name.replace('fid', 'fd')}_{network.name}{slash}{part}"


def _best(asked: FeatureRequest) -> str:
    colour = asked.examples.image.shape[-1] == 3
    if colour and (asked.weights or weights.cached().is_file()):
        return "inception"
    return "classifier" if asked.classes else "rotation"


def _imported(name: str) -> Callable[[np.ndarray], Any]:
    module, _, function = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a file of yours beside you, as for `python -m`
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--features {name}: cannot be imported: {error}") from error
    if not callable(found):
        raise ConfigError(f"--features {name}: is not a function")
    return found


def _inception(asked: FeatureRequest) -> FeatureNetwork:
    variables, digest = weights.load(asked.weights)
    about = {"weights file sha256": digest, "resize": f"{asked.resize}, to 299x299"}
    extract = inception.extractor(variables, asked.resize)
    params = jax.device_get(variables["params"])
    flat: cache.Arrays = flatten_dict(params, sep="/")  # type: ignore
    read = cache.digest(*(flat[name] for name in sorted(flat)))
    return FeatureNetwork("inception", read, about, False, True, extract)


def _classifier(asked: FeatureRequest) -> FeatureNetwork:
    if not asked.classes:
        raise ConfigError(
            "--features classifier: the data has no labels; use rotation or inception"
        )
    image, label = asked.examples
    network = classifier.fit(image, label, asked.classes, asked.progress, keep=True)
    extract = classifier.extractor(network)
    about = _accuracy(extract, asked)
    return FeatureNetwork("classifier", network.digest, about, True, True, extract)


def _rotation(asked: FeatureRequest) -> FeatureNetwork:
    image, turn = classifier.rotated(asked.examples.image)
    network = classifier.fit(image, turn, 4, asked.progress, keep=True)
    extract = classifier.extractor(network)
    about: dict[str, str] = {"trained to tell": "by how much an image is turned"}
    return FeatureNetwork("rotation", network.digest, about, False, False, extract)


def _accuracy(extract: Callable[..., Outputs], asked: FeatureRequest) -> dict[str, str]:
    if asked.test is None:
        return {}
    right = extract(asked.test.image)[1].argmax(axis=1) == asked.test.label
    return {"accuracy on held-out reals": f"{right.mean():.1%} of {len(right)}"}


FEATURES: dict[str, Callable[[FeatureRequest], FeatureNetwork]] = {
    "inception": _inception,
    "classifier": _classifier,
    "rotation": _rotation,
}
