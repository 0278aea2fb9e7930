"""How XLA compiles: for which devices, with which options, kept for the next start."""

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
    """Whether a program traced for a target, as in model.target, will run on a CPU."""
    return target == "cpu" or (target == "auto" and jax.default_backend() == "cpu")


# XLA's CPU backend gives single convolutions, products and sums to YNNPACK. Only the
# sums gain: 64 channels of 16 images at 128x128 in 2 ms, 44 without. A 3x3 convolution
# with 256 channels at 16x16, forward and backward, takes 0.8 of the CPU time without
# in jax 0.10.2, 0.5 in 0.12.0.
CANDIDATES: tuple[tuple[str, str | bool], ...] = (
    ("xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_REDUCE"),
)


@functools.cache
def cpu_compiler_options(
    candidates: tuple[tuple[str, str | bool], ...] = CANDIDATES,
) -> dict[str, str | bool]:
    """Options for `.lower(...).compile(compiler_options=...)`; empty but on the CPU.

    An option of XLA_FLAGS is the user's and left out. So is one that this jaxlib does
    not know: as a compiler option it raises, where in XLA_FLAGS it ends the process.
    """
    if jax.default_backend() != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        name: value
        for name, value in candidates
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
    """Lets JAX keep compiled programs in a part of `folder`, for the next start.

    Each kind of CPU has its part, as a home directory may be that of many machines. A
    folder that the user chose for JAX stays; one that cannot be written is not used.
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
    told = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(told)}))


def _drop_unfinished(part: Path) -> None:
    """Removes what a process killed while writing left.

    JAX would warn of such an entry at each start, compile, and never replace it.
    """
    stamp = part / ".checked"
    checked = stamp.stat().st_mtime if stamp.exists() else 0.0
    now = time.time()
    for path in part.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another start was here
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
