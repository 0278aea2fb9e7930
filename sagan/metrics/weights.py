"""Published weights of feature networks: fetched or given, verified, converted."""

import hashlib
import http.client
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from tqdm import tqdm

from sagan.config.schema import ConfigError
from sagan.metrics.inception import Inception
from sagan.metrics.pickled import read_state_dict
from sagan.runtime import cache
from sagan.runtime.files import read_whole

INCEPTION = Inception()
NAME = "weights-inception-2015-12-05"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    f"{NAME}-{SHA256[:8]}.pth"
)

Layout = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]


def load(path: Path | None = None) -> tuple[dict, str]:
    """Loads the variables of `Inception`, and the SHA-256 of their `.pth`.

    Args:
      path: The published `.pth`; None: the `cached` one, downloaded if necessary.

    Raises:
      ConfigError: The weights are not available, or not the right ones.
    """
    if path is None:
        path = cached()
        if not path.exists():
            _fetch(path)
    return read(path, INCEPTION, NAME, SHA256)


def read(path: Path, network: Any, name: str, sha256: str) -> tuple[dict, str]:
    """Reads the variables of a network from the published `.pth` of this SHA-256.

    Returns the SHA-256 too.

    Raises:
      ConfigError: The file cannot be read, or is another one.
    """
    content = read_whole(path)
    _refuse_others(path, hashlib.sha256(content).hexdigest(), sha256)
    tensors = read_state_dict(path, content)
    return as_variables(converted(tensors), str(path), network, name), sha256


def _refuse_others(path: Path, found: str, sha256: str) -> None:
    if found != sha256:
        wrong = f"SHA-256 {found}, not {sha256}"
        advice = "; remove it, to have them fetched again" * (path == cached())
        raise ConfigError(f"{path}: not the published weights: {wrong}{advice}")


def cached() -> Path:
    """Path of the weights in the cache, whether they exist or not."""
    return cache.folder() / URL.rpartition("/")[2]


def layout(network: Any = INCEPTION) -> Layout:
    """Path and shape in the variables for each name in the state_dict."""
    x = jax.ShapeDtypeStruct((1, network.SIZE, network.SIZE, 3), np.float32)
    shapes: Any = jax.eval_shape(network.init, jax.random.key(0), x)
    flat: Any = flatten_dict(shapes["params"])
    return {".".join(path): (path, leaf.shape) for path, leaf in flat.items()}


def as_variables(
    arrays: Mapping[str, np.ndarray],
    origin: str,
    network: Any = INCEPTION,
    published: str = NAME,
) -> dict[str, Any]:
    """Converted arrays as variables of a network.

    Raises:
      ConfigError: Any is missing, superfluous or of another shape.
    """
    places = layout(network)
    wrong = {
        "arrays missing": sorted(set(places) - set(arrays)),
        "unexpected": sorted(set(arrays) - set(places)),
        "of another shape": [
            f"{name} {arrays[name].shape}, not {shape}"
            for name, (_, shape) in places.items()
            if name in arrays and arrays[name].shape != shape
        ],
    }
    problems = [
        f"{len(x)} {what} ({', '.join(x[:3])})" for what, x in wrong.items() if x
    ]
    if problems:
        raise ConfigError(f"{origin}: not {published}: {'; '.join(problems)}")
    flat = {place: jnp.asarray(arrays[name]) for name, (place, _) in places.items()}
    return {"params": unflatten_dict(flat)}


def converted(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts PyTorch's tensors to our layout: HWIO kernels, [in, out] matrices."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}
    return {
        name: np.ascontiguousarray(x.transpose(axes.get(x.ndim)), np.float32)
        for name, x in tensors.items()
        if not name.endswith(".num_batches_tracked")  # nothing reads this count
    }


def download(url: str, path: Path) -> None:
    """Downloads `url` to a file, with a progress bar."""
    with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0) or None
        bar = tqdm(desc=path.name, total=size, disable=None, unit="B", unit_scale=True)
        with bar:
            while block := answer.read(1 << 20):
                bar.update(file.write(block))


def _fetch(path: Path) -> None:
    """Downloads the published weights to `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            pth = Path(folder, path.name)
            download(URL, pth)
            _refuse_others(pth, hashlib.sha256(read_whole(pth)).hexdigest(), SHA256)
            pth.replace(path)
    except (OSError, http.client.HTTPException) as error:
        advice = "fetch it where there is a network, give it with --weights-file PATH"
        raise ConfigError(f"no weights: {URL}: {error}; {advice}") from error
