"""A message that is printed even if JAX aborts the process.

JAX calls abort() in a process when another one dies or never comes: Python gets no
exception and runs no handler. So a small shell waits beside the process and prints.
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


def arm(messages: Sequence[str]) -> None:
    """Has messages[0] printed if this process ends without a call of `disarm`."""
    global _shell
    _shell = subprocess.Popen(
        ["/bin/sh", "-c", _SHELL, "sh", *messages],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    select(0)


def select(index: int) -> None:
    """Chooses another of the messages."""
    if _shell is not None and _shell.stdin is not None:
        _shell.stdin.write(f"{index}\n")
        _shell.stdin.flush()


def armed() -> bool:
    """Whether a message waits; only in one of several processes."""
    return _shell is not None


def disarm(code: int = 0) -> None:
    """Cancels the message, if there is one; a code other than 0 then ends the process.

    It ends at once: an orderly exit would wait for the other processes, which wait for
    this one.
    """
    global _shell
    if _shell is None:
        return
    _shell.communicate("disarmed\n")
    _shell = None
    if code:
        exit_now(code)


def exit_now(code: int) -> NoReturn:
    """Ends this process at once; prints the message unless it was disarmed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
