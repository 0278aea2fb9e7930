"""Progress of what takes long, as a terminal shows it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tqdm import tqdm

Progress = Callable[[Sequence[Any], str], Iterable[Any]]
"""(items, what they are) -> the items, counted for the user as they are taken."""


def silent(items: Sequence[Any], what: str) -> Iterable[Any]:
    """A Progress that tells nothing."""
    del what
    return items


def bar(items: Any, what: str) -> Any:
    """A metrics.protocol.Progress on the terminal, with the time that is left."""
    return tqdm(items, desc=what, leave=False, disable=None)
