"""Arrays in .npz files from anywhere."""

import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from sagan.config.schema import ConfigError
from sagan.runtime.files import open_regular

MOST_BYTES = 2**35  # of one array: 170,000 images of 256x256
_DAMAGE = (OSError, ValueError, EOFError, MemoryError, RuntimeError, zlib.error)


def read_npz(
    path: Path, choose: Callable[[list[str]], Collection[str]]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays that `choose` takes of the names in a file, and all names.

    Raises:
      ConfigError: It is not there, not an .npz file, damaged or too large.
    """
    try:
        with open_regular(path) as raw, zipfile.ZipFile(raw) as archive:
            largest = max((part.file_size for part in archive.infolist()), default=0)
            if largest > MOST_BYTES:
                raise ValueError(f"{largest:,} bytes unpacked, {MOST_BYTES:,} at most")
            raw.seek(0)
            with np.load(raw, allow_pickle=False) as file:
                names = list(file)
                return {name: file[name] for name in choose(names)}, names
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: is not there") from error
    except (*_DAMAGE, zipfile.BadZipFile) as error:  # RuntimeError: encrypted
        raise ConfigError(f"{path}: cannot be read as .npz ({error})") from error
