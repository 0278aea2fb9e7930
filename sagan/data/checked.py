"""Results of earlier checks of image files that have not changed since."""

import hashlib
import os
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import PIL
from jaxtyping import UInt8

from sagan.data.source import Record, Source
from sagan.runtime import cache

NOT_DECODED = -1  # in place of a checksum
_SETTLED = 2 * 10**9  # ns: a later change of a file as old as this has another time
_ROW = np.dtype(
    [
        ("digest", "V16"),
        ("width", "i4"),
        ("height", "i4"),
        ("colour", "?"),
        ("plain", "?"),
        ("crc", "i8"),
    ]
)


class Facts(NamedTuple):
    """Properties of a good image.

    Attributes:
      plain: Whether all pixels have one colour.
      crc: Checksum of the pixels, or NOT_DECODED.
    """

    width: int
    height: int
    colour: bool
    plain: bool = False
    crc: int = NOT_DECODED

    def of_pixels(self, pixels: UInt8[np.ndarray, "h w c"]) -> "Facts":
        """Adds what the decoded image shows; nothing if it is a single pixel."""
        if pixels.shape[:2] == (1, 1):  # as for `sagan prepare`
            return self
        plain = bool((pixels == pixels[0, 0]).all())
        return self._replace(plain=plain, crc=zlib.crc32(pixels.tobytes()))


def cache_name(source: Source, *, decoded: bool) -> str:
    """Identifies the folder, and the settings that decide what a check does."""
    data = source.data
    settings = (PIL.__version__, data.size, data.channels, decoded)
    text = repr(
        (os.path.abspath(os.path.expanduser(data.path)), source.place, settings)
    )
    return f"checked-v1-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def identify(record: Record, now: int) -> tuple[int, bytes]:
    """A number for a file, whatever it is called, and a digest of its present content.

    The digest is that of its path, size and times. It is empty for a file that was just
    written, as its next change could leave its time as it is; both are for no file.
    """
    if not isinstance(record.image, str):
        return 0, b""
    try:
        status = os.stat(record.image)
    except OSError:
        return 0, b""
    file = hash((status.st_dev, status.st_ino))
    if status.st_mtime_ns > now - _SETTLED:
        return file, b""
    facts = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    text = os.fsencode(record.image) + b"\0%d %d %d" % facts
    return file, hashlib.blake2b(text, digest_size=16).digest()


def read_checked(name: str) -> dict[bytes, Facts]:
    """Facts by digest; empty if there are none, or none that can be read."""
    rows = cache.read_arrays(name).get("rows")
    if rows is None or rows.dtype != _ROW or rows.ndim != 1:
        return {}
    return {digest: Facts(*facts) for digest, *facts in rows.tolist()}


def keep_checked(name: str, known: Mapping[bytes, Facts]) -> None:
    """Remembers facts by digest, and forgets those of other files."""
    rows: Iterable[tuple] = ((digest, *facts) for digest, facts in known.items())
    cache.keep_arrays(name, {"rows": np.fromiter(rows, _ROW, len(known))})
