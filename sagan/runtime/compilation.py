"""XLA compilation: target devices, and options for CPUs."""

import functools
import os

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
# At LLVM's optimisation level 1 steps compile in 0.85 of the time and run as fast; the
# features of EfficientNet-Lite0 would take 1.08 of the time.
STEP_CANDIDATES = CANDIDATES | {"xla_backend_optimization_level": "1"}


@functools.cache
def cpu_compiler_options(*, of_step: bool = False) -> dict[str, str | bool]:
    """Options for `.lower(...).compile(compiler_options=...)`; none except on CPUs.

    Leaves out options that the user sets in XLA_FLAGS or JAX's config, and those that
    this jaxlib does not know: unknown compiler options raise (in XLA_FLAGS they would
    end the process).
    """
    if jax.default_backend() != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.config.read("jax_disable_most_optimizations"):
        flags += " xla_backend_optimization_level"  # JAX sets it to 0
    return {
        name: value
        for name, value in (STEP_CANDIDATES if of_step else CANDIDATES).items()
        if name not in flags and _is_known(name, value)
    }


def _is_known(name: str, value: str | bool) -> bool:
    probe = jax.jit(lambda x: x).lower(0.0)
    try:
        probe.compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True
