"""The files of a workdir that a bucket has too."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from sagan.runtime.buckets import Stored

MARKER = "commit_success.txt"  # Orbax's own, of a checkpoint in a bucket that is whole
Files = dict[str, tuple[int, int]]  # by name: time of the last change, and size


def local_files(folder: Path) -> Files:
    """The regular files below a folder, but hidden and half-written ones."""
    found: Files = {}

    def fail(error: OSError) -> None:  # else what it holds would seem removed
        if not isinstance(error, FileNotFoundError):
            raise error

    for place, inner, names in os.walk(folder, onerror=fail):  # follows no link
        inner[:] = [n for n in inner if n[0] != "." and "orbax-checkpoint-tmp" not in n]
        for name in names:
            path = Path(place, name)
            try:
                status = path.lstat()
            except OSError:
                continue  # it was removed at this moment
            if name[0] != "." and stat.S_ISREG(status.st_mode):
                path = path.relative_to(folder)
                found[path.as_posix()] = (status.st_mtime_ns, status.st_size)
    return found


def step_of(name: str) -> int | None:
    """The step of a checkpoint's file; None for others, and those set aside."""
    found = re.match(r"checkpoints/(\d+)/", name)
    return int(found[1]) if found else None


def in_checkpoints(name: str) -> bool:
    """Whether a file is a checkpoint's, also of one that was set aside."""
    return name.startswith("checkpoints/")


def is_marker(name: str) -> bool:
    """Whether a file is a checkpoint's marker, which goes up last."""
    return step_of(name) is not None and name.split("/")[2:] == [MARKER]


def steps_in(names: Collection[str]) -> set[int]:
    """Steps of the checkpoints that are whole."""
    return {s for n in names if is_marker(n) and (s := step_of(n)) is not None}


def whole_only(there: Mapping[str, Stored]) -> dict[str, Stored]:
    """All objects but those of checkpoints that are not whole."""
    steps = steps_in(there) | {None}
    return {name: stored for name, stored in there.items() if step_of(name) in steps}


def unfinished(there: Mapping[str, Stored]) -> str:
    """Words for the checkpoints that are not whole, or "": they will be removed."""
    steps = {s for n in there if (s := step_of(n)) is not None} - steps_in(there)
    listed = ", ".join(map(str, sorted(steps)))
    return f"; left out as unfinished (no {MARKER}): {listed}" if steps else ""


def is_emptied(gone: Collection[str], here: Collection[str]) -> bool:
    """Whether a folder lost what no run removes: config.json, or all checkpoints."""
    all_lost = any(map(in_checkpoints, gone)) and not any(map(in_checkpoints, here))
    return "config.json" in gone or all_lost


def is_written_by_training(name: str) -> bool:
    """Whether training alone writes a file: others may be written anywhere."""
    top, _, below = name.partition("/")
    return top in ("checkpoints", "samples", "tensorboard") or not below


def goes_on(here: Collection[str], there: Collection[str]) -> bool:
    """Whether a folder may be that of the run in a bucket, or be ahead of it.

    Every checkpoint in the bucket is here, is older than one here, or was set aside.
    """
    newest = max(steps_in(here), default=-1)
    aside = {
        int(found[1])
        for name in here
        if (found := re.match(r"checkpoints/(?:bad|diverged)/(\d+)\.", name))
    }
    return all(step <= newest or step in aside for step in steps_in(there))
