"""Checks of a data set before the first step."""

import collections
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8
from PIL import UnidentifiedImageError
from tqdm import tqdm

from sagan.config.schema import ConfigError
from sagan.data.checked import (
    NOT_DECODED,
    Facts,
    cache_name,
    identify,
    keep_checked,
    read_checked,
)
from sagan.data.images import decode, read_header
from sagan.data.source import Examples, Source, Subset
from sagan.runtime.progress import first_few

# Largest data set, decoded and in bytes, that is kept in memory.
MEMORY = 2**30
# Number of records to check if reading all of them takes too long.
SAMPLE = 2048


def check_images(source: Source) -> Source:
    """Checks all images; the result has only good ones, in memory if they fit.

    Images that fit into memory are decoded, which checks them. Of others, headers and
    ends are read, or those of a sample if `source.sampled`. Files that have not changed
    since an earlier check are not read again; if they fit into memory, they are decoded
    when first needed.

    Raises:
      ConfigError: One line for each kind of problem.
    """
    data = source.data
    fits = len(source) * data.size**2 * data.channels <= MEMORY
    indices = np.arange(len(source))
    if source.sampled and not fits and len(source) > SAMPLE:
        indices = np.linspace(0, len(source) - 1, SAMPLE).astype(np.int64)
    shape = (len(source), data.size, data.size, data.channels)
    memory = np.zeros(shape, np.uint8) if fits else None
    findings = _check_records(source, indices, memory)
    whole = [finding for finding in findings if not finding.error]
    known = np.array([finding.known for finding in findings], bool)
    labels = np.array([finding.label for finding in findings], np.int32)
    broken = np.array([bool(finding.error) for finding in findings], bool)
    problems = [*source.problems, *_image_problems(source, findings)]
    problems += _missing_problems(source, labels, broken)
    problems += _label_problems(source, labels)
    if problems := problems or list(_sameness_problems(source, whole)):
        raise ConfigError("\n".join(problems))
    if memory is not None:
        source = dataclasses.replace(
            source,
            memory=Examples(memory, labels),
            waiting=known if known.any() else None,
        )
    notes = (*source.notes, *_notes(source, findings), *_image_notes(source, whole))
    if broken.any():
        source = _without(source, indices[broken])
    return dataclasses.replace(source, notes=notes)


class _Finding(NamedTuple):
    name: str
    label: int
    facts: Facts = Facts(0, 0, False)
    digest: bytes = b""
    file: int = 0
    known: bool = False
    error: str = ""


def _check_records(
    source: Source,
    indices: Int[np.ndarray, " m"],
    memory: UInt8[np.ndarray, "n h w c"] | None,
) -> list[_Finding]:
    """One finding for each index; decodes into `memory`, if given."""
    remembered = cache_name(source, decoded=memory is not None)
    known, now = read_checked(remembered), time.time_ns()

    def check(index: int) -> _Finding:
        record = source.records[index]
        name, (file, digest) = record.name(index), identify(record, now)
        if facts := known.get(digest):
            return _Finding(name, record.label, facts, digest, file, known=True)
        try:
            facts = Facts(*read_header(record.image, whole=memory is None))
            if memory is not None:
                memory[index] = decode(record.image, source.data)
                facts = facts.of_pixels(memory[index])
        except Exception as error:  # Pillow raises nearly anything
            return _Finding(name, record.label, error=_reason(error))
        return _Finding(name, record.label, facts, digest, file)

    description = f"{source.place}: checking"
    # one by one, handing them over takes longer than finding them known
    chunks = np.split(indices, range(64, len(indices), 64))
    with ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
        parts = pool.map(lambda chunk: list(map(check, chunk.tolist())), chunks)
        found = itertools.chain.from_iterable(parts)
        bar = tqdm(found, description, len(indices), disable=None, leave=False)
        findings = list(bar)
    good = {one.digest: one.facts for one in findings if one.digest}
    if good.keys() != known.keys():
        keep_checked(remembered, good)
    return findings


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no format that Pillow knows"  # its own text shows a memory address
    return str(error) or type(error).__name__


def _image_problems(source: Source, findings: Sequence[_Finding]) -> Iterator[str]:
    data = source.data
    broken = [f"{f.name} ({f.error})" for f in findings if f.error]
    if broken and not data.skip_broken:
        yield (
            f"{source.place}: {len(broken)} of {len(findings)} images cannot be read:"
            f" {first_few(broken)}; repair or delete them, or set data.skip_broken"
        )
    small = _small(source, findings)
    if small and not data.allow_small:
        yield (
            f"{source.place}: {len(small)} of {len(findings)} images are smaller than"
            f" data.size = {data.size}: {first_few(small)}; lower data.size, or set"
            " data.allow_small to enlarge them"
        )


def _small(source: Source, findings: Sequence[_Finding]) -> list[str]:
    return [
        f"{f.name} ({f.facts.width}x{f.facts.height})"
        for f in findings
        if not f.error and min(f.facts[:2]) < source.data.size
    ]


def _sameness_problems(source: Source, whole: Sequence[_Finding]) -> Iterator[str]:
    sums = {finding.facts.crc for finding in whole}
    if len(whole) > 1 and len(sums) == 1 and NOT_DECODED not in sums:
        colour = ", of one plain colour" * whole[0].facts.plain
        yield f"{source.place}: all {len(whole)} images are the same{colour}"


def _image_notes(source: Source, whole: Sequence[_Finding]) -> Iterator[str]:
    if plain := [finding.name for finding in whole if finding.facts.plain]:
        share = f"{len(plain)} of {len(whole)} images"
        yield f"{source.place}: {share} are of one plain colour: {first_few(plain)}"
    sums, labels, shared = collections.defaultdict(list), {}, []
    for one in whole:
        sums[one.label].append(one.facts.crc)
        if one.file and labels.setdefault(one.file, one.label) != one.label:
            shared.append(one.name)
    same = [
        source.class_names[label]
        for label, found in sorted(sums.items())
        if 0 <= label < source.classes
        and len(found) > len(set(found)) == 1
        and NOT_DECODED not in found
    ]
    if same:
        yield f"{source.place}: all images are the same in {first_few(same)}"
    if shared:
        count = f"{len(shared)} links are images of two classes"
        yield f"{source.place}: {count}: {first_few(shared)}"


def _missing_problems(
    source: Source, labels: Int32[np.ndarray, " m"], broken: Bool[np.ndarray, " m"]
) -> Iterator[str]:
    if not len(source):
        yield f"{source.place}: must hold images, has none"
    missing = np.setdiff1d(labels[broken], labels[~broken])
    if source.data.skip_broken and len(missing):
        classes = source.class_names or ["the only class"]
        named = first_few([classes[label] for label in missing])
        yield f"{source.place}: no image that can be read is left of {named}"


def _label_problems(source: Source, labels: Int32[np.ndarray, " m"]) -> Iterator[str]:
    wanted, there = source.data.classes, source.classes
    if wanted == 0:
        return
    if wanted is not None and wanted != there:
        allowed = f"0 (unconditional) or {there}" if there else "0 (unconditional)"
        yield (
            f"data.classes = {wanted}: must be {allowed}; {source.place} has"
            f" {len(source.class_names) or 'no'} classes"
        )
    if not there:
        return
    outside = collections.Counter(labels[(labels < 0) | (labels >= there)].tolist())
    if outside:
        values = first_few([str(value) for value in sorted(outside)])
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
    colour = sum(finding.facts.colour for finding in whole)
    fits = source.memory is not None
    each = ""
    if source.classes and len(findings) == len(source):
        counts = collections.Counter(finding.label for finding in whole)
        numbers = [counts[label] for label in range(source.classes)]
        few, many = min(numbers), max(numbers)
        each = f" ({few if few == many else f'{few} to {many}'} each)"
    lines = [
        f"{place}: {len(source) - len(broken)} images of {source.classes or 'no'}"
        f" classes{each}, {'in memory' if fits else 'decoded when needed'}"
    ]
    if len(source.class_names) == 1:
        only = repr(source.class_names[0])
        lines.append(f"{place}: a single class, {only}: the run will be unconditional")
    if len(findings) < len(source):
        lines.append(f"{place}: {len(findings)} of {len(source)} images were checked")
    if broken:
        lines.append(
            f"{place}: {len(broken)} broken images skipped: {first_few(broken)}"
        )
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
    waiting = None if source.waiting is None else source.waiting[kept]
    records = Subset(source.records, kept)
    return dataclasses.replace(
        source,
        records=records,
        memory=memory,
        waiting=waiting,
        known_labels=None,
        pixels=None,
    )
