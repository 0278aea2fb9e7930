"""Last words of one of several processes.

JAX ends a process by abort() when another one dies or never comes: no exception, no
handler. So what there is to say is said by a shell that outlives it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

_SHELL = """
trap '' HUP INT TERM
while read -r line; do last=$line; done
case $last in [0-9]*) shift "$last"; echo "$1" >&2 ;; esac
"""
_shell: subprocess.Popen[str] | None = None


def watch(words: Sequence[str]) -> None:
    """From now on words[0] is printed if this process ends without `leave`."""
    global _shell
    _shell = subprocess.Popen(
        ["/bin/sh", "-c", _SHELL, "sh", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    say_at_the_end(0)


def say_at_the_end(index: int) -> None:
    """Chooses among the words of `watch`."""
    _tell(str(index))


def leave(code: int = 0) -> None:
    """Ends the watch. With a code other than 0 it ends a watched process, at once.

    An orderly end would wait for the other processes, which wait for this one.
    """
    global _shell
    if _shell is None or _shell.stdin is None:
        return
    _tell("left")
    _shell.stdin.close()
    _shell.wait()
    _shell = None
    if code:
        _exit(code)


def end_without_leave() -> NoReturn:
    """Ends this process, and leaves the last word to the witness."""
    _exit(1)


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def watching() -> bool:
    """Whether this is one of several processes."""
    return _shell is not None


def _tell(line: str) -> None:
    if _shell is not None and _shell.stdin is not None:
        _shell.stdin.write(line + "\n")
        _shell.stdin.flush()
