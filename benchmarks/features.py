"""Times FID's features against torch-fidelity's module and EfficientNet-Lite0's.

python benchmarks/features.py [--size 64] [--batch 16] [--rounds 5]

Weights are random. A round is one batch for each side, in rotating order. Ratios are
taken within a round, so that other programs disturb all sides equally. Without torch
and torch-fidelity, only ours are timed.
"""

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
import time
import types
from functools import partial

import numpy as np

from sagan.metrics import efflite0, weights
from sagan.metrics.features import extractor

_REFERENCE = "torch_fidelity.feature_extractor_inceptionv3"


def reference():
    """Imports torch-fidelity's Inception class without torchvision and weights.

    The package imports torchvision, which is not available for every torch. So only the
    required modules are imported, and then forgotten, so that a later import of the
    package is complete.
    """
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        raise ImportError("torch-fidelity is not installed")
    before = {name: m for name, m in sys.modules.items() if _is_reference(name)}
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations or ())
    for name in before:
        del sys.modules[name]
    sys.modules["torch_fidelity"] = package
    try:
        return importlib.import_module(_REFERENCE).FeatureExtractorInceptionV3
    finally:
        for name in [name for name in sys.modules if _is_reference(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_reference(name):
    return name.partition(".")[0] == "torch_fidelity"


def random_tensors(seed=0, network=weights.INCEPTION):
    """Random weights with a network's published names, in PyTorch's layout.

    Kernels are He-normal, gamma is U(.7, 1.3), beta N(0, .2). Running statistics are 0
    and 1, until `calibrate` replaces them by those of images.
    """
    numbers = np.random.default_rng(seed)
    tensors = {}
    for name, (_, shape) in weights.layout(network).items():
        shape = tuple(
            shape[axis] for axis in {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), (0,))
        )
        if len(shape) > 1:
            scale = np.sqrt(2 / np.prod(shape[1:]))
            values = scale * numbers.standard_normal(shape)
        elif name.endswith("weight"):
            values = numbers.uniform(0.7, 1.3, shape)
        elif name.endswith("bias"):
            values = 0.2 * numbers.standard_normal(shape)
        else:
            values = np.full(shape, name.endswith("var"))
        tensors[name] = values.astype(np.float32)
    return tensors


def torch_module(tensors, *, calibrate=None):
    """The reference with these weights, for pool3 and the logits without bias.

    Args:
      tensors: Weights by name.
      calibrate: Images [n h w c] that determine the running statistics, or None.
    """
    import torch

    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        path = saved(tensors, file.name)
        net = reference()("inception", ["2048", "logits_unbiased"], path)
    if calibrate is not None:
        norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        forward(net, calibrate)
        net.eval()
    return net


def forward(net, images):
    """Features and logits of the reference for images [n h w c], as arrays."""
    import torch

    x = torch.tensor(np.moveaxis(images, -1, 1))
    with torch.no_grad():
        return [np.asarray(y) for y in net(x)]


def saved(tensors, path):
    """Saves the tensors with torch.save; returns the path."""
    import torch

    torch.save({name: torch.tensor(x) for name, x in tensors.items()}, path)
    return path


def sides(tensors, batch, threads):
    """The functions to time; each maps uint8 images [n h w c] to arrays."""
    variables = weights.as_variables(weights.converted(tensors), "random")
    arrays = weights.converted(random_tensors(network=efflite0.NETWORK))
    lite = weights.as_variables(arrays, "random", efflite0.NETWORK)
    found = {
        "efflite0": extractor(efflite0.NETWORK, lite, batch=batch),
        "sagan": extractor(weights.INCEPTION, variables, batch=batch),
    }
    try:
        net = torch_module(tensors)
    except ImportError as error:
        print(f"only ours: {error}")
        return found
    import torch

    torch.set_num_threads(threads)
    last = torch_module(tensors).to(memory_format=torch.channels_last)
    found["torch"] = partial(forward, net)
    found["torch-nhwc"] = partial(forward, last)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for torch")
    args = parser.parse_args()
    shape = (args.batch, args.size, args.size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    functions = sides(random_tensors(), args.batch, args.threads)
    times = {name: [] for name in functions}
    for round_ in range(args.rounds + 1):  # the first one compiles
        names = list(functions)
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            functions[name](images)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            times[name].append((wall, cpu))
    rounds = {name: np.array(values[1:]) for name, values in times.items()}
    for name, values in rounds.items():
        wall, cpu = np.median(values, axis=0)
        print(
            f"{name:12} {args.batch / wall:6.2f} images/s,"
            f" {cpu / args.batch:.3f} CPU s per image"
        )
        for other in list(rounds)[: list(rounds).index(name)]:
            wall, cpu = np.median(rounds[other] / values, axis=0)
            print(f"  {other} / {name}: {wall:.3f} of the time, {cpu:.3f} of the CPU s")


if __name__ == "__main__":
    main()
