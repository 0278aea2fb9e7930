"""Progress of slow work, and lines for the user."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tqdm import tqdm

_NAMED = 5  # number of names in a message
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
Report = Callable[[str], None]
"""Takes a line for the user."""

Progress = Callable[[Sequence[Any], str], Iterable[Any]]
"""(items, what they are) -> the same items; counts them for the user as they come."""


def silent(items: Sequence[Any], what: str) -> Iterable[Any]:
    """A Progress that shows nothing."""
    del what
    return items


def bar(items: Any, what: str, total: int | None = None) -> Any:
    """A Progress that shows a bar with the remaining time on a terminal."""
    return tqdm(items, desc=what, total=total, leave=False, disable=None)


def printable(text: str, keep: str = "") -> str:
    r"""Escapes what would move a terminal's cursor or is no character: "a\nb".

    These are control characters, line breaks, changes of the writing direction, and
    bytes of a file's name that are not UTF-8. The characters in `keep` stay.
    """

    def escape(match: re.Match[str]) -> str:
        found = match[0]
        return found if found in keep else found.encode("unicode_escape").decode()

    return _CONTROLS.sub(escape, text)


def first_few(names: Sequence[str]) -> str:
    """The first few names, printable, and the number of others."""
    more = len(names) - _NAMED
    shown = ", ".join(map(printable, names[:_NAMED]))
    return shown + (f" and {more} more" if more > 0 else "")
