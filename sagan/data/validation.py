"""Everything that may be wrong with a data set, found before the first step."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8
from PIL import UnidentifiedImageError
from tqdm import tqdm

from sagan.config.schema import ConfigError
from sagan.data.source import Examples, Source, Subset, decode, header

# Up to this many bytes of decoded images are kept in memory.
MEMORY = 2**30
# How many records are looked at where reading each takes too long.
SAMPLE = 2048
_NAMED = 5  # examples of a finding that are named


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def check(source: Source) -> Source:
    """The source with the images that can be trained on, in memory if they fit.

    What fits is decoded, and thereby checked, now. Of what does not, the headers and
    the ends of the files are looked at (of a sample, if `source.sampled`).

    Raises:
      ConfigError: one line for each kind of problem found.
    """
    data = source.data
    fits = len(source) * data.size**2 * data.channels <= MEMORY
    indices = np.arange(len(source))
    if source.sampled and not fits and len(source) > SAMPLE:
        indices = np.linspace(0, len(source) - 1, SAMPLE).astype(np.int64)
    memory = _room(len(source), source) if fits else None
    findings = _look_at(source, indices, memory)
    labels = np.array([finding.label for finding in findings], np.int32)
    broken = np.array([bool(finding.error) for finding in findings], bool)
    problems = [*source.problems, *_image_problems(source, findings)]
    problems += _loss_problems(source, labels, broken)
    problems += _label_problems(source, labels)
    if problems:
        raise ConfigError("\n".join(problems))
    if memory is not None:
        source = dataclasses.replace(source, memory=Examples(memory, labels))
    notes = source.notes + _notes(source, findings)
    if broken.any():
        source = _without(source, indices[broken])
    return dataclasses.replace(source, notes=notes)


class _Finding(NamedTuple):
    name: str
    label: int
    width: int = 0
    height: int = 0
    colour: bool = False
    error: str = ""


def _room(count: int, source: Source) -> UInt8[np.ndarray, "n h w c"]:
    size, channels = source.data.size, source.data.channels
    return np.zeros((count, size, size, channels), np.uint8)


def _look_at(
    source: Source,
    indices: Int[np.ndarray, " m"],
    memory: UInt8[np.ndarray, "n h w c"] | None,
) -> list[_Finding]:
    """One finding for each index; fills `memory`, if there is any."""

    def look(index: int) -> _Finding:
        record = source.records[index]
        name = record.name(index)
        try:
            found = header(record.image, whole=memory is None)
            if memory is not None:
                memory[index] = decode(record.image, source.data)
        except Exception as error:  # Pillow raises nearly anything
            return _Finding(name, record.label, error=_reason(error))
        return _Finding(name, record.label, *found)

    description = f"{source.place}: checking"
    with ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
        found = _in_chunks(pool, look, indices.tolist())
        return list(tqdm(found, description, len(indices), disable=None, leave=False))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no format that Pillow knows"  # its own text shows a memory address
    return str(error) or type(error).__name__


def _in_chunks(
    pool: ThreadPoolExecutor, look: Callable[[int], _Finding], indices: list[int]
) -> Iterator[_Finding]:
    for start in range(0, len(indices), 4096):  # bounds the queue of the pool
        yield from pool.map(look, indices[start : start + 4096])


def _image_problems(source: Source, findings: Sequence[_Finding]) -> Iterator[str]:
    data = source.data
    broken = [f"{f.name} ({f.error})" for f in findings if f.error]
    if broken and not data.skip_broken:
        yield (
            f"{source.place}: {len(broken)} of {len(findings)} images cannot be read:"
            f" {some(broken)}; repair or delete them, or set data.skip_broken"
        )
    small = _small(source, findings)
    if small and not data.allow_small:
        yield (
            f"{source.place}: {len(small)} of {len(findings)} images are smaller than"
            f" data.size = {data.size}: {some(small)}; lower data.size, or set"
            " data.allow_small to enlarge them"
        )


def _small(source: Source, findings: Sequence[_Finding]) -> list[str]:
    return [
        f"{f.name} ({f.width}x{f.height})"
        for f in findings
        if not f.error and min(f.width, f.height) < source.data.size
    ]


def _loss_problems(
    source: Source, labels: Int32[np.ndarray, " m"], broken: Bool[np.ndarray, " m"]
) -> Iterator[str]:
    if not len(source):
        yield f"{source.place}: must hold images, has none"
    lost = np.setdiff1d(labels[broken], labels[~broken])
    if source.data.skip_broken and len(lost):
        classes = source.class_names or ["the only class"]
        named = some([classes[label] for label in lost])
        yield f"{source.place}: no image that can be read is left of {named}"


def _label_problems(source: Source, labels: Int32[np.ndarray, " m"]) -> Iterator[str]:
    asked, there = source.data.classes, source.classes
    if asked == 0:
        return
    if asked is not None and asked != there:
        allowed = f"0 (unconditional) or {there}" if there else "0 (unconditional)"
        yield (
            f"data.classes = {asked}: must be {allowed}; {source.place} has"
            f" {len(source.class_names) or 'no'} classes"
        )
    if not there:
        return
    outside = collections.Counter(labels[(labels < 0) | (labels >= there)].tolist())
    if outside:
        values = some([str(value) for value in sorted(outside)])
        yield (
            f"{source.place}: {outside.total()} of {len(labels)} labels are {values}:"
            f" must be in [0, {there}); data.classes = 0 trains without labels"
        )
    elif len(labels) > 1 and (labels == labels[0]).all():
        yield (
            f"{source.place}: all {len(labels)} labels are {labels[0]}: must differ,"
            f" there are {there} classes; data.classes = 0 trains without labels"
        )


def _notes(source: Source, findings: Sequence[_Finding]) -> tuple[str, ...]:
    data, place = source.data, source.place
    whole = [finding for finding in findings if not finding.error]
    broken = [f.name for f in findings if f.error]
    small = len(_small(source, findings))
    colour = sum(finding.colour for finding in whole)
    fits = source.memory is not None
    lines = [
        f"{place}: {len(source) - len(broken)} images of {source.classes or 'no'}"
        f" classes, {'in memory' if fits else 'decoded when needed'}"
    ]
    if len(findings) < len(source):
        lines.append(f"{place}: {len(findings)} of {len(source)} images were checked")
    if broken:
        lines.append(f"{place}: {len(broken)} broken images skipped: {some(broken)}")
    if small:
        lines.append(f"{place}: {small} images enlarged to data.size = {data.size}")
    if data.channels == 1 and colour:
        lines.append(f"{place}: {colour} colour images made grey (data.channels = 1)")
    if data.channels == 3 and colour < len(whole):
        lines.append(
            f"{place}: {len(whole) - colour} grey images repeated to 3 channels"
        )
    return tuple(lines)


def _without(source: Source, broken: Int[np.ndarray, " m"]) -> Source:
    kept = np.setdiff1d(np.arange(len(source)), broken)
    memory = source.memory
    if memory:
        memory = Examples(memory.image[kept], memory.label[kept])
    records = Subset(source.records, kept)
    return dataclasses.replace(source, records=records, memory=memory)
