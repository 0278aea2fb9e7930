"""Which backend a program is for, and the options of XLA that pay on the CPU."""

import contextlib
import contextvars
import functools
import os
from collections.abc import Iterator

import jax

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "target", default=None
)


def backend() -> str:
    """The kind of device a program is traced for: cpu, gpu or tpu.

    Where a form of a computation pays on one of them only, ask here while tracing.
    """
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(target: str) -> Iterator[None]:
    """What is traced inside is for `target`, wherever it is traced or compiled."""
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


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
