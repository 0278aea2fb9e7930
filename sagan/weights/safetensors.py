"""The safetensors format: a JSON header and the numbers; nothing to execute.

Source: https://github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sagan.config.schema import ConfigError
from sagan.runtime.files import parse_json


def safetensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The content of a file with these float32 arrays."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts, at = [], 0
    for name, x in arrays.items():
        parts.append(np.ascontiguousarray(x, "<f4").tobytes())
        end = at + len(parts[-1])
        header[name] = {"dtype": "F32", "shape": x.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def read_safetensors(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """The float32 arrays of a file's content, which need not be trusted.

    Raises:
      ConfigError: It is damaged, or has arrays of another type; `path` names it.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        if not 2 <= length <= len(content) - 8:
            raise ValueError("its header is cut short")
        header = parse_json(content[8 : 8 + length])
        header.pop("__metadata__", None)
        body = memoryview(content)[8 + length :]
        return {name: _array(name, about, body) for name, about in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: no safetensors file of ours: {error}") from error


def _array(name: str, about: Any, body: memoryview) -> np.ndarray:
    kind, shape, (begin, end) = about["dtype"], about["shape"], about["data_offsets"]
    if kind != "F32":
        raise ValueError(f"{name[:80]!r} is {str(kind)[:20]!r}, not 'F32'")
    whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    if not whole or end > len(body) or end - begin != 4 * math.prod(shape):
        raise ValueError(f"{name[:80]!r} is not within the file")
    return np.frombuffer(body[begin:end], "<f4").reshape(shape)
