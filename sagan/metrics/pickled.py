"""Reads the tensors of a PyTorch file without PyTorch, executing nothing.

A `.pth` is a pickle, and a pickle is a program. Here it may build ordered dictionaries
and say where tensors lie. Whatever else it names is refused before it is called or, in
a checkpoint with more than tensors, replaced by a class that does nothing.
"""

import contextlib
import io
import math
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sagan.config.schema import ConfigError
from sagan.metrics.unpickler import Inert, Refused, Storage, Tensor, Unpickler

# torch/serialization.py: what a file of torch < 1.6 begins with, pickled
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read_state_dict(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """Reads the tensors of a state_dict that torch.save wrote; messages name `path`.

    Both formats are read: the zip archive, and that of torch before 1.6. The arrays
    are read-only views, strided as the tensors were, so that no file can ask for more
    memory than it fills.

    Raises:
      ConfigError: the file cannot be read, names what is forbidden, is damaged, or
        holds something else.

    Source: torch/serialization.py (`_save`, `_legacy_save`), torch/_utils.py
    (`_rebuild_tensor_v2`).
    """
    with _naming(path):
        state_dict, storages = _read(content, None)
        tensors = _tensors(state_dict)
        return {name: _view(tensor, storages) for name, tensor in tensors.items()}


def read_checkpoint(path: Path, content: bytes) -> tuple[dict[str, Any], list[str]]:
    """Reads the tensors in the nested dictionaries of any file of torch.save.

    What the file names besides, such as numpy's scalars, becomes an object that does
    nothing. Dictionaries with text as keys stay, and tensors; all else is left out.

    Returns:
      The dictionaries, and the names of what was not executed.

    Raises:
      ConfigError: as read_state_dict, but no name is forbidden.
    """
    with _naming(path):
        inert: dict[str, type] = {}
        everything, storages = _read(content, inert)
        if not isinstance(everything, Mapping):
            raise Refused(
                "not a state_dict but another object, such as a whole module: save its"
                " state_dict()"
            )
        return _nested(everything, storages, {}), sorted(inert)


def _nested(
    tree: Mapping[Any, Any],
    storages: Mapping[str, np.ndarray],
    known: dict[int, dict[str, Any]],
) -> dict[str, Any]:
    """Tensors of nested dictionaries as arrays; `known` has those converted already."""
    if id(tree) in known:
        return known[id(tree)]
    found = known[id(tree)] = {}
    for name, value in tree.items():
        if type(name) is str and isinstance(value, Tensor):
            found[name] = _view(value, storages)
        elif type(name) is str and isinstance(value, Mapping):
            found[name] = _nested(value, storages, known)
    return found


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns whatever a file raises into one line that names it."""
    try:
        yield
    except Refused as error:
        raise ConfigError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise ConfigError(
            f"{path}: damaged, or not a state_dict saved by PyTorch"
            f" ({type(error).__name__})"  # its text may hold a value from the file
        ) from error


def _read(content: bytes, inert: Inert) -> tuple[Any, dict[str, np.ndarray]]:
    """The object that a file holds, and the storages of its tensors."""
    read = _read_zip if content.startswith(b"PK\x03\x04") else _read_legacy
    return read(io.BytesIO(content), inert)


def _read_zip(file: io.BytesIO, inert: Inert) -> tuple[Any, dict[str, np.ndarray]]:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        stored = sum(info.file_size for info in entries.values())
        if stored > file.getbuffer().nbytes:
            raise Refused("a compressed archive; torch.save makes none")
        programs = [name for name in entries if name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise Refused("a zip archive, but not one that torch.save made")
        root = programs[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in entries and archive.read(order) != b"little":
            raise Refused("saved on a big-endian machine")
        everything, wanted = _load(archive.read(programs[0]), inert)
        storages = {
            key: _numbers(archive.read(f"{root}data/{key}"), storage)
            for key, storage in wanted.items()
        }
    return everything, storages


def _read_legacy(file: io.BytesIO, inert: Inert) -> tuple[Any, dict[str, np.ndarray]]:
    """Five pickles (magic, protocol, machine, object, keys), then the storages."""
    if _next(file)[0] != MAGIC:
        raise Refused("not a file that torch.save made")
    protocol, machine = _next(file)[0], _next(file)[0]
    if protocol != PROTOCOL or not machine["little_endian"]:
        raise Refused("of another format of PyTorch, or of a big-endian machine")
    everything, wanted = _next(file, inert)
    storages = {}
    for key in _next(file)[0]:
        size = int.from_bytes(_exactly(file, 8), "little", signed=True)
        length = size * np.dtype(wanted[key].dtype).itemsize
        storages[key] = _numbers(_exactly(file, length), wanted[key])
    return everything, storages


def _exactly(file: io.BytesIO, length: int) -> bytes:
    if not 0 <= length <= file.getbuffer().nbytes - file.tell():
        raise Refused("the file is cut short")
    return file.read(length)


def _next(file: io.BytesIO, inert: Inert = None) -> tuple[Any, dict[str, Storage]]:
    """Reads the pickle that begins here; the file moves to its end."""
    start = file.tell()
    for _ in pickletools.genops(file):
        pass
    end = file.tell()
    return _load(file.getbuffer()[start:end].tobytes(), inert)


def _load(program: bytes, inert: Inert) -> tuple[Any, dict[str, Storage]]:
    """The object that a pickle builds, and the storages that it refers to."""
    # Sizes are looked at first: the unpickler would make room for what is not there.
    for opcode, argument, _ in pickletools.genops(program):
        if "PUT" in opcode.name and argument is not None:
            if int(argument) > len(program):
                raise Refused(f"memo {argument} in a pickle of {len(program)} bytes")
    unpickler = Unpickler(program, inert)
    return unpickler.load(), unpickler.storages


def _tensors(state_dict: Any) -> dict[str, Tensor]:
    if not isinstance(state_dict, Mapping):
        raise Refused(f"holds a {type(state_dict).__name__}, not a state_dict")
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            # of values only the type: a few bytes can make an endless text
            shown = name[:80] if isinstance(name, str) else type(name).__name__
            raise Refused(f"not a state_dict: {shown!r} is not a tensor")
    return dict(state_dict)


def _numbers(data: bytes, storage: Storage) -> np.ndarray:
    numbers = np.frombuffer(data, storage.dtype)
    if len(numbers) != storage.size:
        raise Refused(
            f"a storage of {len(numbers)} numbers, where another number is expected"
        )
    return numbers


def _view(tensor: Tensor, storages: Mapping[str, np.ndarray]) -> np.ndarray:
    """The tensor as an array; it must lie within its storage and not be larger."""
    storage, offset, shape, strides = tensor
    numbers = storages[storage.key]
    last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    count = math.prod(shape)
    if count and (offset + last >= len(numbers) or count > len(numbers)):
        raise Refused(
            f"a tensor of impossible shape or strides in {len(numbers)} numbers"
        )
    if not count:
        return np.empty(shape, numbers.dtype)
    return np.lib.stride_tricks.as_strided(
        numbers[offset:],
        shape,
        [step * numbers.itemsize for step in strides],
        writeable=False,
    )
