"""Writes the file that torch.save would, without PyTorch."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

MARK = "sagan"  # an entry by which an export is known; torch.load ignores it
# Opcodes of the pickle protocol 2; pickle itself could not name torch's functions
_MARK, _TUPLE, _REDUCE, _ITEMS, _PERSISTENT = b"(", b"t", b"R", b"u", b"Q"
_ORDERED = b"ccollections\nOrderedDict\n)R"
_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
_STORAGE = b"ctorch\nFloatStorage\n"


def torch_file(content: Mapping[str, Any]) -> bytes:
    """A zip archive of nested dictionaries of float32 arrays, for torch.load.

    Source: torch/serialization.py (`_save`), torch/_utils.py (`_rebuild_tensor_v2`).
    """
    storages: list[np.ndarray] = []
    program = b"\x80\x02" + _dictionary(content, storages) + b"."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        entries = {
            "data.pkl": program,
            "byteorder": b"little",
            "version": b"3\n",
            MARK: b"",
        }
        for name, entry in entries.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), entry)
        for i, x in enumerate(storages):
            data = np.ascontiguousarray(x, "<f4").tobytes()
            archive.writestr(zipfile.ZipInfo(f"archive/data/{i}"), data)
    return file.getvalue()


def _dictionary(content: Mapping[str, Any], storages: list[np.ndarray]) -> bytes:
    program = _ORDERED + _MARK
    for name, value in content.items():
        inner = isinstance(value, Mapping)
        program += _text(name)
        program += _dictionary(value, storages) if inner else _array(value, storages)
    return program + _ITEMS


def _array(x: np.ndarray, storages: list[np.ndarray]) -> bytes:
    """A call of torch's function with the storage, offset, shape and strides."""
    strides = [int(np.prod(x.shape[i + 1 :])) for i in range(x.ndim)]
    storage = _text("storage") + _STORAGE + _text(str(len(storages))) + _text("cpu")
    storage = _MARK + storage + _number(x.size) + _TUPLE + _PERSISTENT
    storages.append(x)
    places = _number(0) + _numbers(x.shape) + _numbers(strides)
    not_trained, no_hooks = b"\x89", _ORDERED
    arguments = storage + places + not_trained + no_hooks
    return _TENSOR + _MARK + arguments + _TUPLE + _REDUCE


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _number(n: int) -> bytes:
    return b"J" + struct.pack("<i", n)


def _numbers(values: Any) -> bytes:
    return _MARK + b"".join(map(_number, values)) + _TUPLE
