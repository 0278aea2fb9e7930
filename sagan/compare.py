"""Images from anywhere beside images from anywhere."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sagan import cache, card, imagesets, judge
from sagan.card import bar
from sagan.imagesets import ImageSet
from sagan.judge import Function
from sagan.protocol import Comparison, check, check_labels
from sagan.schema import Config, ConfigError
from sagan.source import Examples

Report = Callable[[str], None]


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
    count = len(fakes.examples.label)
    if asked.samples is not None and asked.samples > count:
        raise ConfigError(f"--samples {asked.samples}: {fake} holds {count} images")
    reals, test = _reals(real, data_path, fakes, asked.reals)
    imagesets.check_alike(fakes.examples, reals.examples)
    imagesets.check_same_classes(fakes, reals)
    if not fakes.classes:
        reals = ImageSet(reals.examples)
    check_labels(asked, reals.classes)
    court = judge.open_judge(
        asked,
        reals,
        reals.examples,
        test,
        samples=count,
        features=features,
        progress=bar,
    )
    chosen = np.sort(_order(fakes.examples)[: court.samples])
    image, label = (part[chosen] for part in fakes.examples)
    result = card.new(
        {"real": real, **court.facts},
        {"what": str(fake), "fakes sha256": cache.digest(image, label)},
    )
    measured = judge.measure(court, [Examples(image, label)])
    each = {name: [value] for name, value in measured.values.items()}
    card.add(result, {}, each, judge.floor(court), court.samples)
    result["notes"] = [*court.notes, *measured.notes]
    card.write(out, result)
    report(f"{fake} beside {real}: {out / card.CARD}")
    report(card.text(card.table(result)))
    for note in result["notes"]:
        report(f"note: {note}")
    return result


def _reals(
    real: str, data_path: str, fakes: ImageSet, limit: int
) -> tuple[ImageSet, Examples | None]:
    path = Path(real)
    if path.suffix == ".npz" or path.is_dir():
        found = imagesets.of_path(path, bar)
        order = _order(found.examples)[: limit or None]
        chosen = Examples(*(part[order] for part in found.examples))
        return found._replace(examples=chosen), None
    source = imagesets.of_data_set(real, data_path, fakes.examples)
    examples = imagesets.of_source(source, limit, bar)
    config = dataclasses.replace(Config(), data=source.data)
    other = imagesets.held_out(config, source.data.split, source)
    test = None if other is None else imagesets.of_source(other, limit, bar)
    return ImageSet(examples, source.classes, source.class_names), test


def _order(examples: Examples) -> np.ndarray:
    rng = np.random.default_rng(imagesets.ORDER_SEED)
    return rng.permutation(len(examples.label))
