"""Writes the files of a prepared set; see `records` for what is in them.

Each file is complete or absent, and prepared.json comes last. After a kill, the same
command keeps the files that are there, or starts afresh if the images have changed.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from sagan.config.schema import ConfigError, DataConfig
from sagan.data.records import FILES, MARKER, RAW, UNFINISHED, Manifest, read_manifest
from sagan.data.source import Source
from sagan.runtime.files import (
    open_regular,
    read_json,
    remove_unfinished,
    whole_file,
    write_whole,
)
from sagan.runtime.progress import bar, first_few

# Formats, and how Pillow writes them. A JPEG has 12 kB at 128 px, with full colour.
FORMATS: dict[str, dict[str, Any]] = {
    RAW: {},
    "png": {},
    "jpeg": {"quality": 95, "subsampling": 0},
}
_FILE_BYTES, _FILE_IMAGES = 2**28, 2**16  # most of one file, decoded
_CHUNK = 32  # images that a thread decodes in turn


def settings_digest(name: str, stored: str, format: str, data: DataConfig) -> str:
    """A digest of all that a command asks for."""
    kinds = (data.channels, data.skip_broken, data.allow_small)
    return hashlib.sha256(repr((name, stored, format, kinds)).encode()).hexdigest()[:32]


def check_folder(folder: Path, settings: str) -> None:
    """Raises a ConfigError unless a set with these settings may be written there."""
    remedy = "delete it, or name another --data-dir"
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not above.is_dir():
        raise ConfigError(f"--data-dir: {above} is not a folder")
    if above != folder:
        return
    if (folder / MARKER).exists():
        made_from = read_manifest(folder).made_from
        if made_from[:1] != [settings]:
            raise ConfigError(f"{folder}: holds a set with other settings; {remedy}")
        return
    begun = _begun(folder)
    others = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
    if begun:
        others = [n for n in others if n != UNFINISHED and not n.endswith(".records")]
    if others:
        raise ConfigError(f"{folder}: is not empty: {first_few(others)}; {remedy}")
    if begun and begun[0] != settings and any(folder.glob("*.records")):
        raise ConfigError(
            f"{folder}: holds an unfinished set with other settings; {remedy}"
        )


def write_set(
    folder: Path, sources: Mapping[str, Source], format: str, settings: str
) -> None:
    """Writes all images of checked sources, as training would decode them.

    Args:
      folder: Folder of the set, accepted by `check_folder`.
      sources: The source of each split, with the same classes.
      format: A key of FORMATS; or FILES, for the image files as they are.
      settings: What the set was asked to be, from `settings_digest`.

    Raises:
      ConfigError: The set is there but has other images, another process writes it, the
        disk is too small, or an image cannot be read.
    """
    data = next(iter(sources.values())).data
    size, channels = (0, 0) if format == FILES else (data.size, data.channels)
    made = Manifest(
        format=format,
        size=size,
        channels=channels,
        allow_small=data.allow_small,
        class_names=list(next(iter(sources.values())).class_names),
        per_file=min(
            _FILE_IMAGES, max(1, _FILE_BYTES // (size**2 * channels or 2**16))
        ),
        splits={split: len(source) for split, source in sources.items()},
        files={},
        made_from=[settings, _digest_of(sources)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if _is_there(folder, made):
            return
        _check_space(folder, made)
        for split, source in sources.items():
            _write_split(folder, made, split, source)
        names = (name for split in made.splits for name, _ in made.parts(split))
        files = {name: (folder / name).stat().st_size for name in names}
        made = dataclasses.replace(made, files=files)
        text = json.dumps(dataclasses.asdict(made), indent=1)
        write_whole(folder / MARKER, text + "\n")
        (folder / UNFINISHED).unlink()


def _digest_of(sources: Mapping[str, Source]) -> str:
    """A digest of the source's files by name, size and time; else of its name."""
    digest = hashlib.sha256()
    for split, source in sources.items():
        facts: Iterator[Any] = iter([source.place])
        if isinstance(source.records[0].image, str):
            paths = (str(record.image) for record in source.records)
            facts = ((os.path.abspath(p), *_size_and_time(p)) for p in paths)
        for fact in itertools.chain([(split, len(source), source.class_names)], facts):
            digest.update(repr(fact).encode())
    return digest.hexdigest()[:32]


def _size_and_time(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _begun(folder: Path) -> list[str] | None:
    """The `made_from` of an unfinished set; None if there is none."""
    with contextlib.suppress(OSError, ValueError):
        made_from = read_json(folder / UNFINISHED)
        if isinstance(made_from, list) and made_from:
            return made_from
    return None


def _is_there(folder: Path, made: Manifest) -> bool:
    """Whether the set is complete; if not, leaves in its folder what it can keep."""
    if (folder / MARKER).exists():
        if read_manifest(folder).made_from != made.made_from:
            raise ConfigError(
                f"{folder}: there already, from images that have changed since; delete"
                " it, or name another --data-dir"
            )
        return True
    if _begun(folder) != made.made_from:
        for path in folder.glob("*.records"):
            path.unlink()
        write_whole(folder / UNFINISHED, json.dumps(made.made_from))
    remove_unfinished(folder)
    return False


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigError(f"{folder}: another `sagan prepare` writes it") from error
    finally:
        os.close(handle)


def _check_space(folder: Path, made: Manifest) -> None:
    there = sum(path.stat().st_size for path in folder.glob("*.records"))
    needed = sum(made.splits.values()) * (made.pixels + 12) - there
    free = shutil.disk_usage(folder).free
    if made.format == RAW and needed > free:
        raise ConfigError(
            f"{folder}: the set needs {needed / 1e9:.1f} GB, the disk has"
            f" {free / 1e9:.1f} GB left; --format jpeg or png takes less"
        )


def _write_split(folder: Path, made: Manifest, split: str, source: Source) -> None:
    parts = made.parts(split)
    missing = [i for i, (name, _) in enumerate(parts) if not (folder / name).exists()]
    starts = [np.arange(i * made.per_file, len(source))[: parts[i][1]] for i in missing]
    indices = np.concatenate([np.empty(0, np.int64), *starts])
    records = _encode_all(source, made.format, indices)
    # both are closed if anything fails: no thread decodes on
    with (
        contextlib.closing(records),
        contextlib.closing(
            iter(bar(records, f"{folder.name}: writing {split}", len(indices)))
        ) as shown,
    ):
        for i in missing:
            name, count = parts[i]
            _write_file(folder / name, itertools.islice(shown, count), count)


def _write_file(path: Path, records: Iterable[tuple[bytes, int]], count: int) -> None:
    ends, labels = np.zeros(count, "<i8"), np.zeros(count, "<i4")
    with whole_file(path) as file:
        file.write(ends.tobytes() + labels.tobytes())  # their place
        for i, (content, labels[i]) in enumerate(records):
            file.write(content)
            ends[i] = file.tell() - 12 * count
        file.seek(0)
        file.write(ends.tobytes() + labels.tobytes())


def _encode_all(
    source: Source, format: str, indices: Int[np.ndarray, " n"]
) -> Generator[tuple[bytes, int], None, None]:
    """The records at `indices` with their labels, in order, by several threads."""
    threads = max(2, min(32, os.cpu_count() or 1))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    count = 1 if format == FILES else _CHUNK  # files may be large
    chunks = grain.MapDataset.range(0, len(indices), count).map(
        lambda i: _encode(source, format, indices[i : i + count])
    )
    with contextlib.closing(iter(chunks.to_iter_dataset(options))) as iterator:
        for chunk in iterator:
            yield from chunk


def _encode(
    source: Source, format: str, indices: Int[np.ndarray, " n"]
) -> list[tuple[bytes, int]]:
    if format == FILES:
        records = [source.records[i] for i in indices.tolist()]
        return [(_content(record.image), record.label) for record in records]
    images, labels = source.examples(indices)
    contents = (_encoded(image, format) for image in images)
    return list(zip(contents, labels.tolist(), strict=True))


def _content(image: bytes | str) -> bytes:
    if isinstance(image, bytes):
        return image
    with open_regular(Path(image)) as file:
        return file.read()


def _encoded(image: UInt8[np.ndarray, "h w c"], format: str) -> bytes:
    if format == RAW:
        return image.tobytes()
    grey = image.shape[-1] == 1
    buffer = io.BytesIO()
    pillow = Image.fromarray(image[..., 0] if grey else image)
    pillow.save(buffer, format, **FORMATS[format])
    return buffer.getvalue()
