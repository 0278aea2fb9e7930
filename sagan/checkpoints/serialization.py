"""One checkpoint: its contents, its checksum, and its way back to the devices."""

from __future__ import annotations

import json
import logging
import math
import os
import pathlib
import re
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from sagan.config.schema import ConfigError
from sagan.runtime.files import DAMAGE, read_json
from sagan.state import leaf_paths

_OWN = "own_crc32"  # key of the checksum of the rest of the metadata


def take(state: Any) -> dict[str, np.ndarray]:
    """Copies a PyTree's arrays to the host, by path: the state may then be donated."""
    leaves = jax.tree.leaves(state)
    for leaf in leaves:
        leaf.copy_to_host_async()
    arrays = {n: np.array(x) for n, x in zip(leaf_paths(state), leaves, strict=True)}
    if len(arrays) < len(leaves):
        raise ValueError("two leaves of the state have the same path")
    return arrays


def place(target: Any, arrays: Mapping[str, np.ndarray], where: str) -> Any:
    """Inverse of `take`: a tree like `target`, each leaf placed by its sharding.

    Raises:
      ConfigError: Names, types or shapes differ from the target's. The message begins
        with `where`.
    """
    leaves, names = jax.tree.leaves(target), leaf_paths(target)
    wanted = {n: f"{x.dtype} {x.shape}" for n, x in zip(names, leaves, strict=True)}
    there = {name: f"{x.dtype} {x.shape}" for name, x in arrays.items()}
    odd = [n for n in sorted({*wanted, *there}) if wanted.get(n) != there.get(n)]
    if odd:
        lines = [f"{where}: is of another model or optimizer:"] + [
            f"  {n}: {there.get(n, 'nothing')} there, {wanted.get(n, 'nothing')} wanted"
            for n in odd[:8]
        ]
        raise ConfigError("\n".join(lines + ["  ..."] * (len(odd) > 8)))
    placed = [
        jax.device_put(arrays[name], getattr(leaf, "sharding", None))
        for name, leaf in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(target), placed)


def quiet_orbax() -> None:
    """Silences Orbax's log, and tracebacks that it prints after a failed save.

    Failures arrive as exceptions too. The tracebacks come from arrays that were still
    being written when Orbax closed its event loop.
    """
    logging.getLogger("absl").addFilter(_is_not_from_orbax)
    printed = sys.unraisablehook
    if getattr(printed, "__module__", "") != __name__:
        sys.unraisablehook = lambda what: _is_late(what) or printed(what)


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in pathlib.Path(record.pathname).parts


def _is_late(what: Any) -> bool:
    error = what.exc_value
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def handlers() -> dict[str, ocp.CheckpointHandler]:
    """Orbax's handlers of `items`, in the only layout that `read` understands."""
    return {
        "state": ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False),
        "meta": ocp.JsonCheckpointHandler(),
    }


def items(
    step: int, arrays: dict[str, np.ndarray], metrics: Mapping[str, float], **more: Any
) -> ocp.args.Composite:
    """The arrays, and a JSON object with checksums of them and of itself."""
    finite = {name: float(v) for name, v in metrics.items() if math.isfinite(v)}
    meta = {"step": step, "crc32": _crc32(arrays), "metrics": finite, **more}
    meta[_OWN] = _json_crc32(meta)
    return ocp.args.Composite(
        **{"state": ocp.args.PyTreeSave(arrays), "meta": ocp.args.JsonSave(meta)}
    )


def read_meta(folder: pathlib.Path) -> dict[str, Any] | None:
    """The JSON object in a step's folder; None if it is damaged.

    Raises:
      OSError: It cannot be read, which is no damage.
    """
    try:
        meta = read_json(folder / "meta" / "metadata")
        own = meta.pop(_OWN, None)
        older = own is None and "memory" not in meta  # from before there was one
        known = isinstance(meta["metrics"], dict) and (
            older or own == _json_crc32(meta)
        )
        return meta if known else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _raise_unreadable(error, folder)
        return None


def _raise_unreadable(error: Exception, folder: pathlib.Path) -> None:
    """Raises an OSError if a permission or the disk is to blame, not the content."""
    code = error.errno if isinstance(error, OSError) else None
    if found := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's
        code = int(found[1])
    if code is not None and code not in DAMAGE:
        raise OSError(code, f"cannot be read: {os.strerror(code)}", str(folder))


def read(folder: pathlib.Path) -> tuple[dict[str, np.ndarray], str | None]:
    """The arrays in a step's folder, and what is wrong with them, if anything."""
    # TensorStore instead of Orbax, which for a broken file prints screens of "Task
    # exception was never retrieved".
    meta = read_meta(folder)
    if meta is None:
        return {}, "its metadata are missing or damaged"
    for path in folder.rglob("*"):
        if not path.is_dir() and not path.is_file():  # TensorStore waits for a FIFO
            return {}, f"{path.relative_to(folder)} is not a regular file"
    try:
        arrays = _read_arrays(folder / "state")
    except (ConfigError, MemoryError):
        raise  # the machine's fault, not the checkpoint's
    except Exception as error:  # TensorStore raises many types
        _raise_unreadable(error, folder)
        return {}, first_line(error)
    if (str(meta.get("step")), meta.get("crc32")) == (folder.name, _crc32(arrays)):
        return arrays, None
    return {}, "its contents do not match its checksum"


def _read_arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
    store: dict[str, Any] = {"driver": "ocdbt", "base": f"file://{folder}/"}
    keys = tensorstore.KvStore.open(store).result().list().result()
    names = [key[: -len(b"/.zarray")].decode() for key in keys if b".zarray" in key]
    opened = {
        name: tensorstore.open(
            {"driver": "zarr", "kvstore": {**store, "path": f"{name}/"}},
            open=True,
            read=True,
        )
        for name in names
    }
    arrays = {name: array.result() for name, array in opened.items()}
    # TensorStore ends the process if it cannot allocate an array.
    needed = sum(
        math.prod(max(n, chunk or 0) for n, chunk in zip(x.shape, chunks, strict=True))
        * x.dtype.numpy_dtype.itemsize
        for x in arrays.values()
        for chunks in [x.chunk_layout.read_chunk.shape or x.shape]
    )
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ConfigError(f"{folder}: {needed:,} bytes; this machine has {there:,}")
    return {name: array.read().result() for name, array in arrays.items()}


def first_line(error: Exception) -> str:
    """An error in one line: Orbax's can fill a screen."""
    text = str(error).strip() or type(error).__name__
    if code := re.search(r"os_error_code='(\d+)'", text):  # TensorStore's, at the end
        return os.strerror(int(code[1]))
    return text.splitlines()[0][:300]


def _json_crc32(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _crc32(arrays: Mapping[str, np.ndarray]) -> int:
    """CRC-32 of all names, types, shapes and bytes, in the order of the names."""
    crc = 0
    for name, x in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {x.dtype} {x.shape}".encode(), crc)
        flat: Any = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        crc = zlib.crc32(flat, crc)
    return crc
