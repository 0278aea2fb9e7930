"""XLA compilation: target devices, options for CPUs, and the cache on disk."""

import contextlib
import functools
import hashlib
import os
import platform
import time
import zlib
from pathlib import Path
from typing import Any

import jax


def is_for_cpu(target: str) -> bool:
    """Whether `target`, a value of model.target, means a CPU."""
    return target == "cpu" or (target == "auto" and jax.default_backend() == "cpu")


# By default XLA's CPU backend gives single convolutions, products and sums to YNNPACK;
# this option leaves it the sums, the only ones that gain: 64 channels of 16 images at
# 128x128 take 2 ms instead of 44. A 3x3 convolution with 256 channels at 16x16, forward
# and backward, takes 0.8 of the CPU time without YNNPACK in jax 0.10.2, 0.5 in 0.12.0.
CANDIDATES: dict[str, str | bool] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"
}


@functools.cache
def cpu_compiler_options() -> dict[str, str | bool]:
    """Options for `.lower(...).compile(compiler_options=...)`; none except on CPUs.

    Leaves out options that the user sets in XLA_FLAGS, and those that this jaxlib does
    not know: unknown compiler options raise (in XLA_FLAGS they would end the process).
    """
    if jax.default_backend() != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        name: value
        for name, value in CANDIDATES.items()
        if name not in flags and _is_known(name, value)
    }


def _is_known(name: str, value: str | bool) -> bool:
    probe = jax.jit(lambda x: x).lower(0.0)
    try:
        probe.compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep_compiled(folder: Path) -> None:
    """Keeps compiled programs in a subfolder of `folder`, for the next start.

    Each kind of CPU has its own subfolder, because machines may share a home directory.
    Does nothing if the user chose a folder for JAX, or if `folder` cannot be written.
    """
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir:
        return
    part = folder / hashlib.sha256(_processor().encode()).hexdigest()[:16]
    try:
        part.mkdir(parents=True, exist_ok=True)
        _drop_unfinished(part)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(part))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))


def _drop_unfinished(part: Path) -> None:
    """Removes entries that a killed process left unfinished.

    JAX would warn about such an entry at each start, and compile without replacing it.
    """
    stamp = part / ".checked"
    checked = stamp.stat().st_mtime if stamp.exists() else 0.0
    now = time.time()
    for path in part.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            if path.stat().st_mtime >= checked and not _is_whole(path.read_bytes()):
                path.unlink()
    stamp.touch()
    os.utime(stamp, (now, now))


def _is_whole(entry: bytes) -> bool:
    if entry.startswith(b"\x28\xb5\x2f\xfd"):  # Zstandard, which Python cannot read
        return True
    stream = zlib.decompressobj()
    try:
        stream.decompress(entry)
    except zlib.error:
        return False
    return stream.eof
