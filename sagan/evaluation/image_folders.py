"""Compares folders, .npz files and data sets, whatever they come from."""

import datetime
import functools
from pathlib import Path

import numpy as np

from sagan.config.schema import Config, ConfigError
from sagan.data.pipeline import open_source
from sagan.data.source import Examples, Source
from sagan.evaluation import card, image_sets, results, scoring
from sagan.evaluation.baseline import baselines
from sagan.evaluation.image_sets import ImageSet
from sagan.evaluation.protocol import (
    Comparison,
    absolute,
    check_labels,
    check_protocol,
    option,
    options,
)
from sagan.evaluation.reference import (
    check_size,
    holds_statistics,
    read_reference,
    write_reference,
)
from sagan.evaluation.scoring import Function
from sagan.metrics import gaussian
from sagan.runtime import cache
from sagan.runtime.files import make_folder, make_place
from sagan.runtime.progress import Report, bar

_CHUNK = 1024  # images between two steps of the bar


def compare(
    fake: Path,
    real: str,
    protocol: Comparison,
    *,
    data_path: str = "",
    out: Path,
    features: Function | None = None,
    report: Report = print,
) -> results.Result:
    """Compares folders of images or .npz files; the reals may be a data set.

    Raises:
      ConfigError: The images cannot be read, or cannot be compared.
    """
    check_protocol(protocol)
    fakes = image_sets.of_path(fake)
    named, reals = _open_reals(real, data_path, fakes, protocol.reals)
    image_sets.check_alike(fakes.examples, reals.examples)
    fakes = image_sets.with_labels_of(fakes, named)
    labelled = fakes.labelled and reals.classes > 0
    check_labels(protocol, reals.classes if labelled else 0)
    make_folder(out)
    scorer = scoring.open_scorer(
        protocol,
        reals,
        labelled=labelled,
        available=len(fakes.examples.label),
        features=features,
    )
    chosen = np.sort(image_sets.order(len(fakes.examples.label))[: scorer.samples])
    image, label = (part[chosen] for part in fakes.examples)
    about = {"what": str(fake), "fakes sha256": cache.digest(image, label)}
    started = datetime.datetime.now(datetime.UTC)
    result = results.new_result({"real": real, **scorer.facts}, about)
    result["class_names"] = list(named.class_names)
    starts = bar(range(0, len(image), _CHUNK), "fakes")
    pieces = (Examples(image[i:][:_CHUNK], label[i:][:_CHUNK]) for i in starts)
    measured = scoring.score(scorer, pieces)
    values, without = baselines(scorer, label if labelled else None)
    each = {name: [value] for name, value in measured.values.items()}
    results.add_rows(result, {}, each, values, scorer.samples)
    result["notes"] = [*scorer.notes, *measured.notes, *without]
    command = _command(fake, real, protocol, data_path, out)
    results.note_made(result, started, "" if features else command)
    results.write_result(out, result)
    report(f"{fake} beside {real}: {out / results.CARD}")
    report(card.text_table(card.result_table(result)))
    for note in result["notes"]:
        report(f"note: {note}")
    return result


def _command(
    fake: Path, real: str, protocol: Comparison, data_path: str, out: Path
) -> str:
    """The command that repeats a comparison, in any folder."""
    given = {"fake": absolute(str(fake))}
    given |= {"real": absolute(real) if _is_images(real) else real}
    given |= {"data-path": absolute(data_path)} if data_path else {}
    given |= {"out": absolute(str(out))}
    named = (option(name, value) for name, value in given.items())
    return " ".join(filter(None, ["sagan evaluate", *named, options(protocol)]))


def write_statistics(
    real: str,
    protocol: Comparison,
    *,
    size: int = 0,
    channels: int = 3,
    data_path: str = "",
    out: Path,
    features: Function | None = None,
    report: Report = print,
) -> None:
    """Writes the statistics of real images, for `sagan evaluate --real`.

    Args:
      real: A folder, an .npz file of images, or a data set.
      protocol: Its features, and its number of reals at most.
      size: Height and width of a data set's images, in pixels.
      channels: Channels of a data set's images.
      data_path: Location of the data set.
      out: The .npz file.
      features: Replaces protocol.features: see scoring.open_scorer.
      report: Takes the lines for the user.

    Raises:
      ConfigError: The images cannot be read, or the file not be written.
    """
    check_protocol(protocol)
    if out.suffix != ".npz":
        raise ConfigError(f"--out {out}: must be an .npz file")
    path = Path(real)
    if path.suffix == ".npz" and holds_statistics(path):
        raise ConfigError(f"{real}: holds statistics already; must hold images")
    _check_there(real)
    has_images = _is_images(real)
    if size and has_images:
        raise ConfigError(f"--size {size}: is for data sets; {real} has its own size")
    if not (has_images or size):
        raise ConfigError(f"{real}: a data set needs --size, in pixels")
    if size < 0:
        raise ConfigError(f"--size {size}: must be at least 1")
    if protocol.reals == 1:
        raise ConfigError("--reals 1: a covariance needs at least 2 images")
    make_place(out, is_file=True)
    like = np.zeros((1, size, size, channels), np.uint8)
    like = Examples(like, np.zeros(1, np.int32))
    if has_images:
        _, reals = _open_reals(real, data_path, ImageSet(like), protocol.reals)
        pieces = iter([reals.examples])
    else:  # in pieces: ImageNet does not fit in memory
        source = _open_data_set(real, data_path, like)
        trained = scoring.trains_features(protocol, None, features)
        reals = _reals_of(source, source.examples(np.arange(1)), trained)
        pieces = image_sets.in_pieces(source, protocol.reals)
    network = scoring.open_network(protocol, reals, features)
    vectors = (network.extract(image)[0] for image, _ in pieces)
    found = functools.reduce(gaussian.merge, map(gaussian.moments, vectors))
    write_reference(out, found, reals.examples.image, network)
    report(f"{found.n} images, {len(found.mean)} features of {network.name}: {out}")


def _open_reals(
    real: str, data_path: str, fakes: ImageSet, limit: int
) -> tuple[ImageSet, scoring.Reals]:
    """The reals with the names of their classes, and as `Reals`."""
    path = Path(real)
    if path.suffix == ".npz" and holds_statistics(path):
        like, none = (Examples(*(x[:n] for x in fakes.examples)) for n in (1, 0))
        reference = read_reference(path)
        check_size(reference, like.image)
        return ImageSet(like), scoring.Reals(like, none, reference=reference)
    if _is_images(real):
        images = image_sets.of_path(path)
        order = image_sets.order(len(images.examples.label))
        some, training = (
            Examples(*(part[order[:most]] for part in images.examples))
            for most in (limit or None, image_sets.TRAINING)
        )
        images = images._replace(examples=some)
        return images, scoring.Reals(some, training, None, images.classes)
    _check_there(real)
    source = _open_data_set(real, data_path, fakes.examples)
    some = image_sets.of_source(source, limit)
    images = ImageSet(some, source.classes > 0, source.class_names)
    return images, _reals_of(source, some, trained=True)


def _reals_of(source: Source, some: Examples, trained: bool) -> scoring.Reals:
    """Examples of a source, with what a feature network needs if it is trained."""
    classes = source.classes if source.classes > 1 else 0
    if not trained:
        return scoring.Reals(some, Examples(*(x[:0] for x in some)), None, classes)
    config, trained_on = Config(data=source.data), source
    if source.data.split != "train" and "train" in source.splits:
        trained_on = open_source(config, "train")
    training, test = image_sets.for_features(config, source, some, trained_on)
    return scoring.Reals(some, training, test, classes)


def _is_images(real: str) -> bool:
    """Whether it names a file or folder of images, rather than a data set."""
    return Path(real).suffix == ".npz" or Path(real).is_dir()


def _open_data_set(real: str, data_path: str, like: Examples) -> Source:
    try:
        return image_sets.of_data_set(real, data_path, like)
    except ConfigError as error:
        raise ConfigError(
            f"{real}: is no folder and no .npz file; as a data set: {error}"
        ) from error


def _check_there(real: str) -> None:
    """Raises ConfigError for a path, rather than a data set's name, of nothing."""
    is_path = real.startswith(("/", "./", "../", "~")) or real.endswith("/")
    if is_path and not Path(real).exists():
        raise ConfigError(f"{real}: is not there")
