"""Progress of slow work, and lines for the user."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tqdm import tqdm

Report = Callable[[str], None]
"""Takes a line for the user."""

Progress = Callable[[Sequence[Any], str], Iterable[Any]]
"""(items, what they are) -> the same items; counts them for the user as they come."""


def silent(items: Sequence[Any], what: str) -> Iterable[Any]:
    """A Progress that shows nothing."""
    del what
    return items


def bar(items: Any, what: str) -> Any:
    """A Progress that shows a bar with the remaining time on a terminal."""
    return tqdm(items, desc=what, leave=False, disable=None)
