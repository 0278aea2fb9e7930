"""Images from anywhere beside images from anywhere."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sagan import cache, card, imagesets, judge
from sagan.card import bar
from sagan.data import open_source
from sagan.floor import floors
from sagan.imagesets import ImageSet
from sagan.judge import Function
from sagan.protocol import Comparison, check, check_labels
from sagan.schema import Config
from sagan.source import Examples

Report = Callable[[str], None]
_CHUNK = 1024  # images between two steps of the bar


def compare(
    fake: Path,
    real: str,
    asked: Comparison,
    *,
    data_path: str = "",
    out: Path,
    features: Function | None = None,
    report: Report = print,
) -> card.Result:
    """Compares images from anywhere: folders, .npz files, a data set for the reals.

    Raises:
      ConfigError: the images cannot be read, or cannot be compared.
    """
    check(asked)
    fakes = imagesets.of_path(fake, bar)
    named, reals = _reals(real, data_path, fakes, asked.reals)
    imagesets.check_alike(fakes.examples, reals.examples)
    fakes = imagesets.with_labels_of(fakes, named)
    labelled = fakes.labelled and reals.classes > 0
    check_labels(asked, reals.classes if labelled else 0)
    court = judge.open_judge(
        asked,
        reals,
        labelled=labelled,
        available=len(fakes.examples.label),
        features=features,
        progress=bar,
    )
    chosen = np.sort(imagesets.order(len(fakes.examples.label))[: court.samples])
    image, label = (part[chosen] for part in fakes.examples)
    about = {"what": str(fake), "fakes sha256": cache.digest(image, label)}
    result = card.new({"real": real, **court.facts}, about)
    starts = bar(range(0, len(image), _CHUNK), "fakes")
    pieces = (Examples(image[i:][:_CHUNK], label[i:][:_CHUNK]) for i in starts)
    measured = judge.measure(court, pieces)
    found, without = floors(court, label if labelled else None)
    each = {name: [value] for name, value in measured.values.items()}
    card.add(result, {}, each, found, court.samples)
    result["notes"] = [*court.notes, *measured.notes, *without]
    card.write(out, result)
    report(f"{fake} beside {real}: {out / card.CARD}")
    report(card.text(card.table(result)))
    for note in result["notes"]:
        report(f"note: {note}")
    return result


def _reals(
    real: str, data_path: str, fakes: ImageSet, limit: int
) -> tuple[ImageSet, judge.Reals]:
    """The reals with the names of their classes, and for all that needs them."""
    path = Path(real)
    if path.suffix == ".npz" or path.is_dir():
        found = imagesets.of_path(path, bar)
        order = imagesets.order(len(found.examples.label))
        some, training = (
            Examples(*(part[order[:most]] for part in found.examples))
            for most in (limit or None, imagesets.TRAINING)
        )
        images = found._replace(examples=some)
        return images, judge.Reals(some, training, None, images.classes)
    source = imagesets.of_data_set(real, data_path, fakes.examples)
    some = imagesets.of_source(source, limit, bar)
    images = ImageSet(some, source.classes > 0, source.class_names)
    config = dataclasses.replace(Config(), data=source.data)
    trained_on = source
    if source.data.split != "train" and "train" in source.splits:
        trained_on = open_source(config, "train")
    training, test = imagesets.for_features(config, source, some, trained_on, bar)
    return images, judge.Reals(some, training, test, images.classes)
