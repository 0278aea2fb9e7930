"""Standard output and error that outlast their reader."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sagan.config.schema import ConfigError
from sagan.runtime import files

_NOWHERE = Path(os.devnull)
log = _NOWHERE  # file in which the streams go on


class _Lasting:
    """A stream that goes on in `log` once it cannot be written.

    The reader of a pipe has gone, the terminal was closed, or the disk is full. The log
    takes the stream's descriptor, so that C code and the end of Python find it too.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._broken = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> Any:
        if self._broken and text.startswith("\r"):  # a progress bar
            return len(text)
        return self._lasting(self._stream.write, text)

    def flush(self) -> None:
        self._lasting(self._stream.flush)

    def _lasting(self, call: Callable[..., Any], *args: str) -> Any:
        try:
            return call(*args)
        except OSError as error:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            told = f"{now}: the output goes on here: {error.strerror}\n"
        self._broken = True
        for place in (log, _NOWHERE):  # the log's disk may be full too
            with (
                contextlib.suppress(OSError, ConfigError),
                files.open_append(place) as file,
            ):
                file.write(told)
                file.flush()
                os.dup2(file.fileno(), self._stream.fileno())
                return call(*args)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """A context in which no write to stdout or stderr fails."""
    global log
    before: Any = sys.stdout, sys.stderr
    # None: the descriptor was closed; the file takes it before another one does
    streams: Any = [_Lasting(x or _NOWHERE.open("w")) for x in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before
        log = _NOWHERE
