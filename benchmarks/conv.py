"""Times the convolutions, forward and backward: plain, fast and PyTorch's.

python benchmarks/conv.py [--size 32|128] [--repeats 5]

Prints medians of CPU milliseconds. The forms are interleaved, so that other programs
disturb them equally. Without torch its column is left out.
"""

import argparse
import functools
import time

import jax
import numpy as np

from sagan import conv
from sagan.runtime import compilation

OPS = {"": conv.conv, "up": conv.upsample_conv, "down": conv.conv_downsample}
# (operation, images, pixels of the input's side, channels in, channels out)
SHAPES = {
    32: """
        up 16 4 256 256 | conv 16 8 256 256 | up 16 8 256 256 | conv 16 16 256 256
        up 16 16 256 256 | conv 16 32 256 256 | conv 16 32 256 3
        conv 32 32 3 128 | down 32 32 128 128 | conv 32 16 128 128
        down 32 16 128 128 | conv 32 8 128 128""",
    128: """
        up 8 4 1024 1024 | conv 8 8 1024 1024 | up 8 8 1024 512 | conv 8 16 512 512
        up 8 16 512 256 | conv 8 32 256 256 | up 8 32 256 128 | conv 8 64 128 128
        up 8 64 128 64 | conv 8 128 64 64 | conv 8 128 64 3
        conv 16 128 3 64 | down 16 128 64 64 | conv 16 64 64 128 | down 16 64 128 128
        conv 16 32 128 256 | down 16 32 256 256 | conv 16 16 256 512
        down 16 16 512 512 | conv 16 8 512 1024 | down 16 8 1024 1024
        conv 16 4 1024 1024""",
}


def jax_run(op, fast, x, kernel, dy):
    def both(x, kernel, dy):
        y, transpose = jax.vjp(functools.partial(op, fast=fast, cpu=True), x, kernel)
        return y, transpose(dy)

    options = compilation.cpu_compiler_options()
    compiled = jax.jit(both).lower(x, kernel, dy).compile(compiler_options=options)
    arrays = jax.device_put((x, kernel, dy))
    return lambda: jax.block_until_ready(compiled(*arrays))


def torch_run(resample, x, kernel, dy):
    import torch
    from torch.nn import functional as F

    def nchw(array, axes):
        tensor = torch.from_numpy(array).permute(axes)
        return tensor.contiguous(memory_format=torch.channels_last)

    x = nchw(x, (0, 3, 1, 2)).requires_grad_()
    kernel = nchw(kernel, (3, 2, 0, 1)).requires_grad_()
    dy = nchw(dy, (0, 3, 1, 2))

    def run():
        x.grad = kernel.grad = None
        y = F.interpolate(x, scale_factor=2) if resample == "up" else x
        y = F.conv2d(y, kernel, padding=1)
        (F.avg_pool2d(y, 2) if resample == "down" else y).backward(dy)

    return run


def runs(resample, n, size, c, f):
    numbers = np.random.default_rng(0)

    def normal(*shape):
        return numbers.standard_normal(shape, np.float32)

    x, kernel = normal(n, size, size, c), normal(3, 3, c, f)
    out = {"": size, "up": 2 * size, "down": size // 2}[resample]
    dy = normal(n, out, out, f)
    found = {
        "plain": jax_run(OPS[resample], False, x, kernel, dy),
        "fast": jax_run(OPS[resample], True, x, kernel, dy),
    }
    try:
        found["torch"] = torch_run(resample, x, kernel, dy)
    except ImportError:
        pass
    return found


def medians(functions, repeats):
    times = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(1000 * (time.process_time() - start))
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, choices=SHAPES, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    total: dict[str, float] = {}
    for shape in SHAPES[args.size].replace("\n", "|").split("|"):
        if not shape.strip():
            continue
        name, *numbers = shape.split()
        found = runs(name.replace("conv", ""), *map(int, numbers))
        row = medians(found, args.repeats)
        total = {key: total.get(key, 0) + row[key] for key in row}
        print(shape.strip(), {key: round(row[key], 1) for key in row}, flush=True)
    print("sum", {key: round(total[key]) for key in total})


if __name__ == "__main__":
    main()
