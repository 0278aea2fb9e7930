"""The training images that are nearest to samples: has the generator memorised?"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from sagan.checkpoints.restore import Opened
from sagan.checkpoints.workdir import changed_data
from sagan.data.pipeline import open_source, resolve
from sagan.data.source import Examples
from sagan.evaluation import image_sets, scoring
from sagan.metrics.features import FeatureNetwork, FeatureRequest, open_features
from sagan.runtime.progress import bar
from sagan.sampling import sampler
from sagan.visualization import draw
from sagan.visualization.picture import Panel, Sheet

_COUNT = 256  # samples, and test images, whose distances are taken
_NEAREST = 4  # training images beside each
_FIRST, _CLOSEST = 4, 2  # rows: the first of all, and the closest by each distance
_CHUNK = 2**26  # numbers of training images at once: 256 MiB
_BLURRED = "blurred images are nearer by pixels than sharp ones: that is no copying"


class Nearest(NamedTuple):
    """The nearest of many for each of some, the nearest first.

    Attributes:
      distance: to each of them.
      row: of each, among the many.
    """

    distance: Float[np.ndarray, "n k"]
    row: Int[np.ndarray, "n k"]


class _Searched(NamedTuple):
    """Training images to search.

    Attributes:
      examples: of them.
      indices: in the source.
      test: some of another split, of the classes asked for; None: there are none.
      network: of the features.
      vector: features of the examples.
      mirrored: training saw the mirror image of each, too.
      notes: what a reader must know.
    """

    examples: Examples
    indices: Int[np.ndarray, " m"]
    test: Examples | None
    network: FeatureNetwork
    vector: Float[np.ndarray, "m d"]
    mirrored: bool
    notes: tuple[str, ...]


class _Looked(NamedTuple):
    """Images with what is nearest to them."""

    examples: Examples
    pixels: Nearest
    features: Nearest


def neighbours(opened: Opened, *, seed: int, classes: Sequence[int] | None) -> Sheet:
    """Samples, and real test images, beside their nearest training images.

    Distances are by pixels (root mean square, in grey levels of 255) and by the
    features that `sagan evaluate` takes by default (Euclidean). The test images, which
    no training saw, show how near an image is that was not copied; the samples have
    their labels.

    Raises:
      ConfigError: the data, or the feature network, cannot be had.
    """
    labels = draw.in_turn(opened, classes, _COUNT)
    searched = _search_in(opened, classes)
    if searched.test is not None:  # else easy classes would look memorised
        labels = np.resize(searched.test.label, _COUNT)
    pieces = sampler.samples(
        opened.config,
        opened.variables,
        labels,
        seed=seed,
        batch=draw.BATCH,
        sampler=draw.sampler(opened.config),
    )
    fakes = Examples(np.concatenate(list(pieces)), labels)
    sets = {"sample": _look(searched, fakes)}
    if searched.test is not None:
        sets["test image"] = _look(searched, searched.test)
    rows = {name: _rows(looked) for name, looked in sets.items()}
    panels = [
        _panel(name, looked, searched, rows[name]) for name, looked in sets.items()
    ]
    title = f"{opened.words}: samples of seed {seed}; beneath each image its distance"
    panels[0] = panels[0]._replace(title=title)
    numbers = {
        "what": opened.words,
        "seed": seed,
        "features": searched.network.name,
        "features_sha256": searched.network.digest,
        "training_images": len(searched.indices),
        "mirrored_too": searched.mirrored,
        "samples": _numbers(sets["sample"]),
        "test_images": _numbers(sets.get("test image")),
        "rows": [
            _row(name, looked, searched, int(i))
            for name, looked in sets.items()
            for i in rows[name]
        ],
    }
    return Sheet(panels, _caption(opened, searched, sets), searched.notes, numbers)


def nearest(
    queries: Sequence[Float[np.ndarray, "n d"]],
    many: Float[np.ndarray, "m d"] | UInt8[np.ndarray, "m h w c"],
    k: int,
) -> Nearest:
    """The k nearest of many by Euclidean distance, a chunk of them at a time.

    Args:
      queries: each row in one or more forms: the form that is nearest counts.
      many: to search.
      k: at most as many as there are.
    """
    from sklearn.neighbors import NearestNeighbors  # a second for whoever does not call

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
    return _closest(np.hstack(distances), np.hstack(rows), k)


def _closest(
    distance: Float[np.ndarray, "n l"], row: Int[np.ndarray, "n l"], k: int
) -> Nearest:
    """The k nearest different rows: a row may be there in two forms of a query."""
    order = np.argsort(distance, axis=1, kind="stable")
    distance = np.take_along_axis(distance, order, axis=1)
    row = np.take_along_axis(row, order, axis=1)
    first = [np.sort(np.unique(one, return_index=True)[1])[:k] for one in row]
    kept = np.stack(first)
    return Nearest(*(np.take_along_axis(x, kept, axis=1) for x in (distance, row)))


def _search_in(opened: Opened, classes: Sequence[int] | None) -> _Searched:
    source = open_source(opened.config)
    config = resolve(opened.config, source)
    notes = changed_data(opened.workdir, len(source), source.class_names)
    training = image_sets.of_source(source, image_sets.TRAINING, bar)
    _, test = image_sets.for_features(config, source, training, source, bar)
    if len(training.label) < len(source):
        notes.append(f"searched: {len(training.label)} of {len(source)} images")
    asked = FeatureRequest(training, test, config.data.classes or 0, progress=bar)
    network = open_features("auto", asked)
    if test is not None:
        rows = np.isin(test.label, classes or test.label).nonzero()[0][:_COUNT]
        test = Examples(test.image[rows], test.label[rows]) if len(rows) else None
    if test is None:
        notes.append("the data has no test images of these classes to compare with")
    return _Searched(
        examples=training,
        indices=image_sets.order(len(source))[: len(training.label)],
        test=test,
        network=network,
        vector=scoring.kept_features(network, training.image, bar)[0],
        mirrored=config.data.flip,
        notes=(*notes, _BLURRED),
    )


def _look(searched: _Searched, examples: Examples) -> _Looked:
    forms = [examples.image]
    if searched.mirrored:
        forms.append(examples.image[:, :, ::-1])
    flat = [form.reshape(len(form), -1).astype(np.float32) for form in forms]
    pixels = nearest(flat, searched.examples.image, _NEAREST)
    levels = pixels.distance / np.sqrt(flat[0].shape[1])
    vectors = [searched.network.extract(form, bar)[0] for form in forms]
    features = nearest(vectors, searched.vector, _NEAREST)
    return _Looked(examples, pixels._replace(distance=levels), features)


def _rows(looked: _Looked) -> dict[int, str]:
    """The images to show, with why: the first, and the closest of all."""
    rows = {i: "" for i in range(min(_FIRST, len(looked.examples.label)))}
    for name, found in (("pixels", looked.pixels), ("features", looked.features)):
        order = np.argsort(found.distance[:, 0], kind="stable")
        more = [int(i) for i in order if int(i) not in rows][:_CLOSEST]
        rows |= {i: f"\nclosest by {name}" for i in more}
    return rows


def _panel(
    name: str, looked: _Looked, searched: _Searched, rows: dict[int, str]
) -> Panel:
    pictures, beneath = [], []
    for i in rows:
        pictures.append(looked.examples.image[i][None])
        beneath.append([""])
        for found in (looked.pixels, looked.features):
            pictures[-1] = np.concatenate(
                [pictures[-1], searched.examples.image[found.row[i]]]
            )
            beneath[-1] += [_digits(distance) for distance in found.distance[i]]
    k = looked.pixels.row.shape[1]
    blank = [""] * (k - 1)
    by_features = f"nearest by {searched.network.name} features"
    return Panel(
        title="real test images, which no training saw",
        images=np.stack(pictures),
        rows=[f"{name} {i}{why}" for i, why in rows.items()],
        columns=["", "nearest training images by pixels", *blank, by_features, *blank],
        beneath=beneath,
        breaks=(1, 1 + k),
    )


def _numbers(looked: _Looked | None) -> dict[str, Any] | None:
    """Of the distances to the nearest training image."""
    if looked is None:
        return None

    def of(found: Nearest) -> dict[str, float]:
        one = found.distance[:, 0]
        return {"median": float(np.median(one)), "smallest": float(one.min())}

    return {
        "count": len(looked.examples.label),
        "pixels": of(looked.pixels),
        "features": of(looked.features),
    }


def _row(name: str, looked: _Looked, searched: _Searched, i: int) -> dict[str, Any]:
    def each(found: Nearest) -> Iterator[dict[str, Any]]:
        for row, distance in zip(found.row[i], found.distance[i], strict=True):
            yield {
                "index": int(searched.indices[row]),
                "label": int(searched.examples.label[row]),
                "distance": float(distance),
            }

    return {
        "what": name,
        "number": i,
        "label": int(looked.examples.label[i]),
        "pixels": list(each(looked.pixels)),
        "features": list(each(looked.features)),
    }


def _caption(opened: Opened, searched: _Searched, sets: dict[str, _Looked]) -> str:
    def median(name: str, found: str) -> str:
        return _digits(np.median(getattr(sets[name], found).distance[:, 0]))

    said = (
        f"Nearest training images of samples of {opened.words}: the median distance is"
        f" {median('sample', 'pixels')} grey levels by pixels and"
        f" {median('sample', 'features')} by {searched.network.name} features"
    )
    if "test image" not in sets:
        return f"{said}."
    pixels, features = (median("test image", by) for by in ("pixels", "features"))
    return f"{said}; of real test images it is {pixels} and {features}."


def _digits(distance: Any) -> str:
    return f"{distance:#.3g}".rstrip(".")
