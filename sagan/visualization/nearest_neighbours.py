"""The training images nearest to samples: has the generator memorised?"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from sagan.checkpoints.restore import OpenedRun, data_notes, open_data
from sagan.data.pipeline import resolve
from sagan.data.source import Examples
from sagan.evaluation import image_sets, scoring
from sagan.metrics.features import FeatureNetwork, FeatureRequest, open_features
from sagan.runtime.progress import bar
from sagan.sampling.layout import Panel, Sheet
from sagan.visualization import checkpoint_images as drawing
from sagan.visualization.checkpoint_images import Classes

_COUNT = 256  # samples, and test images, whose distances are computed
_NEAREST = 4  # training images shown beside each
_FIRST, _CLOSEST = 4, 2  # rows: the first of all, and the closest by each distance
_CHUNK = 2**26  # numbers of training images at once: 256 MiB
_BLURRED = (
    "by pixels, blurred images are nearer than sharp ones; that alone is no copying"
)


class Nearest(NamedTuple):
    """Distances and indices of the nearest images of each query, nearest first."""

    distance: Float[np.ndarray, "n k"]
    row: Int[np.ndarray, "n k"]


class _Training(NamedTuple):
    """Training images to search.

    Attributes:
      indices: Indices of the examples in the source.
      test: Images of another split, of the classes asked for.
      vectors: Features of the examples.
      mirrored: Whether training also saw the mirror image of each.
    """

    examples: Examples
    indices: Int[np.ndarray, " m"]
    test: Examples | None
    network: FeatureNetwork
    vectors: Float[np.ndarray, "m d"]
    mirrored: bool
    notes: list[str]


class _Found(NamedTuple):
    """Images with their nearest training images by each distance."""

    name: str
    examples: Examples
    nearest: dict[str, Nearest]

    def median(self, by: str) -> float:
        """Median distance to the nearest training image."""
        return float(np.median(self.nearest[by].distance[:, 0]))

    def rows(self) -> dict[int, str]:
        """Indices of the images to show and why: the first, and the closest of all."""
        rows = {i: "" for i in range(min(_FIRST, len(self.examples.label)))}
        for by, found in self.nearest.items():
            order = np.argsort(found.distance[:, 0], kind="stable").tolist()
            more = [i for i in order if i not in rows][:_CLOSEST]
            rows |= {i: f"\nclosest by {by}" for i in more}
        return rows


def draw_neighbours(opened: OpenedRun, *, seed: int, classes: Classes) -> Sheet:
    """Samples, and real test images, beside their nearest training images.

    Distances are by pixels (root mean square, in grey levels of 255) and by the default
    features of `sagan evaluate` (Euclidean). The test images, never seen in training,
    show the distances to expect without copying; the samples have the same labels.

    Raises:
      ConfigError: The data or the feature network is not available.
    """
    labels = drawing.labels_in_turn(opened, classes, _COUNT)
    training = _open_training(opened, classes)
    if training.test is not None:  # else easy classes would look memorised
        labels = np.resize(training.test.label, _COUNT)
    z = drawing.latents(opened, seed, _COUNT)
    images = drawing.draw_images(opened.config, opened.variables, z, labels)
    fakes = Examples(images, labels)
    sets = [_search(training, "sample", fakes)]
    if training.test is not None:
        sets.append(_search(training, "test image", training.test))
    samples, features = sets[0], f"{training.network.name} features"
    caption = (
        f"Nearest training images of samples of {opened.words}: the median distance is"
        f" {_digits(samples.median('pixels'))} grey levels by pixels and"
        f" {_digits(samples.median('features'))} by {features}"
    )
    for test in sets[1:]:
        pixels, by_features = (_digits(test.median(by)) for by in test.nearest)
        caption += f"; for real test images it is {pixels} and {by_features}"
    title = f"{opened.words}: samples of seed {seed}; below each image its distance"
    titles = [title, "real test images, not used in training"]
    panels = [_panel(titles[n], found, training) for n, found in enumerate(sets)]
    numbers = {
        "what": opened.words,
        "seed": seed,
        "features": training.network.name,
        "features_sha256": training.network.digest,
        "training_images": len(training.indices),
        "mirrored_too": training.mirrored,
        "samples": _statistics(samples),
        "test_images": _statistics(sets[1]) if sets[1:] else None,
        "rows": [_row(found, training, i) for found in sets for i in found.rows()],
    }
    return Sheet(panels, f"{caption}.", (*training.notes, _BLURRED), numbers)


def find_nearest(
    queries: Sequence[Float[np.ndarray, "n d"]],
    many: Float[np.ndarray, "m d"] | UInt8[np.ndarray, "m h w c"],
    k: int,
) -> Nearest:
    """The k nearest of many by Euclidean distance, a chunk of them at a time.

    Each query may have several forms, of which the nearest counts.
    """
    from sklearn.neighbors import NearestNeighbors  # a second, which most calls save

    k = min(k, len(many))
    size = max(k, _CHUNK // int(np.prod(many.shape[1:])))
    distances, rows = [], []
    for start in bar(range(0, len(many), size), "nearest training images"):
        chunk = many[start : start + size].reshape(-1, queries[0].shape[1])
        chunk = chunk.astype(np.float32)
        search = NearestNeighbors(n_neighbors=min(k, len(chunk)), algorithm="brute")
        search.fit(chunk)
        for form in queries:
            distance, row = search.kneighbors(form)
            distances.append(distance)
            rows.append(row + start)
    distance, row = np.hstack(distances), np.hstack(rows)
    order = np.argsort(distance, axis=1, kind="stable")
    distance, row = (np.take_along_axis(x, order, axis=1) for x in (distance, row))
    # a row may have been found for two forms of a query
    first = [np.sort(np.unique(one, return_index=True)[1])[:k] for one in row]
    return Nearest(
        *(np.take_along_axis(x, np.stack(first), axis=1) for x in (distance, row))
    )


def _open_training(opened: OpenedRun, classes: Classes) -> _Training:
    source = open_data(opened.workdir, opened.config)
    notes = data_notes(opened.workdir, source)
    config = resolve(opened.config, source)
    examples = image_sets.of_source(source, image_sets.TRAINING)
    _, test = image_sets.for_features(config, source, examples, source)
    if len(examples.label) < len(source):
        notes.append(f"searched: {len(examples.label)} of {len(source)} images")
    request = FeatureRequest(examples, test, config.data.classes or 0, progress=bar)
    network = open_features("auto", request)
    if test is not None:
        rows = np.isin(test.label, classes or test.label).nonzero()[0][:_COUNT]
        test = Examples(test.image[rows], test.label[rows]) if len(rows) else None
    if test is None:
        notes.append("the data has no test images of these classes to compare with")
    return _Training(
        examples=examples,
        indices=image_sets.order(len(source))[: len(examples.label)],
        test=test,
        network=network,
        vectors=scoring.cached_features(network, examples.image)[0],
        mirrored=config.data.flip,
        notes=notes,
    )


def _search(training: _Training, name: str, examples: Examples) -> _Found:
    forms = [examples.image]
    if training.mirrored:
        forms.append(examples.image[:, :, ::-1])
    flat = [form.reshape(len(form), -1).astype(np.float32) for form in forms]
    pixels = find_nearest(flat, training.examples.image, _NEAREST)
    levels = pixels.distance / np.sqrt(flat[0].shape[1])
    vectors = [training.network.extract(form, bar)[0] for form in forms]
    features = find_nearest(vectors, training.vectors, _NEAREST)
    nearest = {"pixels": pixels._replace(distance=levels), "features": features}
    return _Found(name, examples, nearest)


def _panel(title: str, found: _Found, training: _Training) -> Panel:
    rows = found.rows()
    near = [nearest.row[list(rows)] for nearest in found.nearest.values()]
    images = [training.examples.image[row] for row in near]
    own = found.examples.image[list(rows)][:, None]
    distances = np.hstack([n.distance[list(rows)] for n in found.nearest.values()])
    k = near[0].shape[1]
    blank = [""] * (k - 1)
    by_features = f"nearest by {training.network.name} features"
    return Panel(
        title,
        np.concatenate([own, *images], axis=1),
        rows=[f"{found.name} {i}{why}" for i, why in rows.items()],
        columns=["", "nearest training images by pixels", *blank, by_features, *blank],
        captions=[["", *map(_digits, row)] for row in distances],
        breaks=(1, 1 + k),
    )


def _statistics(found: _Found) -> dict[str, Any]:
    """Statistics of the distances to the nearest training image."""
    each = {
        by: {"median": found.median(by), "smallest": float(nearest.distance.min())}
        for by, nearest in found.nearest.items()
    }
    return {"count": len(found.examples.label), **each}


def _row(found: _Found, training: _Training, i: int) -> dict[str, Any]:
    row: dict[str, Any] = {"what": found.name, "number": i}
    row["label"] = int(found.examples.label[i])
    for by, nearest in found.nearest.items():
        indices = training.indices[nearest.row[i]].tolist()
        labels = training.examples.label[nearest.row[i]].tolist()
        facts = zip(indices, labels, nearest.distance[i].tolist(), strict=True)
        row[by] = [{"index": j, "label": y, "distance": d} for j, y, d in facts]
    return row


def _digits(distance: float) -> str:
    return f"{distance:#.3g}".rstrip(".")
