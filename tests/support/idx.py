"""Small data sets in IDX files."""

import gzip
import struct

import numpy as np

SPLITS = {"train": ("train", 30), "test": ("t10k", 20)}


def idx(array):
    """A file's bytes as LeCun's page describes them."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def images(split):
    count = SPLITS[split][1]
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)


def labels(split):
    return (np.arange(SPLITS[split][1]) % 10).astype(np.uint8)


def write_all(root, suffix="", dot="-"):
    for split, (name, _) in SPLITS.items():
        for kind, array in (("images", images(split)), ("labels", labels(split))):
            content = idx(array)
            path = root / f"{name}-{kind}{dot}idx{array.ndim}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content) if suffix else content)
    return root
