"""Compares the TPU compiler's estimated cycles with a roofline, for single operations.

python benchmarks/tpu_roofline.py [v5e:1x1 v6e:1x1 v4:2x2x1 v5p:2x2x1]

Needs libtpu (pip install -e '.[tpu]') and no TPU. Large products take about as long as
their FLOPs at the chip's peak, which says that the clock in sagan/planning/duration.py
is right; for the rest the ratio says how much too long the compiler's estimate is, if
the chip reaches its bandwidth.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from sagan.planning import topology as topology_lib

ALL = ("v5e:1x1", "v6e:1x1", "v4:2x2x1", "v5p:2x2x1")


def cases() -> Iterator[tuple[str, Callable[..., Any], list[tuple[tuple, str]]]]:
    """Yields a name, a function, and shapes and types of its arguments."""
    import jax
    import jax.numpy as jnp

    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=names
        )

    for n in (1024, 2048, 4096, 8192):
        yield f"product {n}", jnp.matmul, [((n, n), "bfloat16")] * 2
    for size, inputs, outputs in (
        (16, 512, 512),
        (32, 256, 256),
        (64, 128, 128),
        (128, 64, 64),
        (128, 3, 64),
    ):
        x, kernel = (32, size, size, inputs), (3, 3, inputs, outputs)
        shapes = [(x, "bfloat16"), (kernel, "bfloat16")]
        yield f"3x3 {size} px, {inputs} to {outputs}", conv, shapes
    for dtype in ("float32", "bfloat16"):
        square = ((8192, 8192), dtype)
        yield f"add, {dtype}", jnp.add, [square] * 2
        yield f"scale, {dtype}", lambda x: 2 * x, [square]
        yield f"exp, {dtype}", jnp.exp, [square]
        yield f"sum, {dtype}", jnp.sum, [square]
        yield f"softmax, {dtype}", jax.nn.softmax, [square]


def table(name: str) -> Iterator[str]:
    """Yields the lines of a topology."""
    import jax

    from sagan.planning.duration import CHIPS, total
    from sagan.planning.program import Program

    chip = CHIPS[name.partition(":")[0]]
    device = topology_lib.devices(topology_lib.parse(name))[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    yield f"{name:28} cycles us  roofline us  ratio"
    for label, function, arguments in cases():
        shapes = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
            for shape, dtype in arguments
        ]
        compiled = jax.jit(function).lower(*shapes).compile()
        program = Program(compiled.as_text() or "")
        time = total(program.operations, chip)
        cycles, roofline = 1e6 * time.cycles, 1e6 * time.roofline
        ratio = cycles / roofline
        yield f"  {label:26} {cycles:9.1f}  {roofline:11.1f}  {ratio:5.2f}"


if __name__ == "__main__":
    names = sys.argv[1:] or ALL
    topology_lib.set_environment(topology_lib.parse(names[0]))  # before JAX
    for one in names:
        print(*table(one), sep="\n", flush=True)
