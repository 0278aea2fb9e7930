"""A small classifier of the real images: a feature network without a download."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, Int32, PyTree, UInt8

from sagan.data.pixels import to_float
from sagan.metrics import gaussian
from sagan.metrics.extract import over_batches
from sagan.runtime import cache, exchange
from sagan.runtime.progress import Progress, silent

RECIPE = 2  # raise it when the result of `fit` changes
BATCH = 128
EPOCHS = 30
STEPS = (200, 3000)  # at least and at most
FEATURES = 64
LARGEST = 32  # pixels; larger images are shrunk first


class Classifier(nn.Module):
    """Two convolutions and two linear layers, from images to features and logits."""

    classes: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "n d"], Float[Array, "n k"]]:
        shrink = -(-x.shape[1] // LARGEST)
        if shrink > 1:
            x = nn.avg_pool(x, (shrink, shrink), (shrink, shrink))
        first = 2 if x.shape[1] > LARGEST // 2 else 1
        x = nn.gelu(nn.Conv(32, (3, 3), strides=first)(x))
        x = nn.gelu(nn.Conv(64, (3, 3), strides=2)(x))
        # not ReLU: a dead unit would be a missing feature
        vector = nn.gelu(nn.Dense(FEATURES)(x.reshape(x.shape[0], -1)))
        dropped = nn.Dropout(0.3, deterministic=not train)(vector)
        return vector, nn.Dense(self.classes)(dropped)


class Fitted(NamedTuple):
    """A trained classifier.

    Attributes:
      params: Parameters of Classifier(classes).
      scale: Factor of the features. Their variances over the training images then sum
        to 100, so that a Fréchet distance is in per cent of it.
      classes: Number of classes.
      digest: SHA-256 of the parameters and the scale.
    """

    params: PyTree
    scale: Float[np.ndarray, ""]
    classes: int
    digest: str


def fit(
    image: UInt8[np.ndarray, "n h w c"],
    label: Int32[np.ndarray, " n"],
    classes: int,
    progress: Progress = silent,
    *,
    keep: bool = False,
) -> Fitted:
    """Trains a classifier; the result depends on images and labels alone.

    AdamW with a cosine schedule up to 3e-3, 30 epochs (between 200 and 3000 steps) of
    batches of 128, each shifted by up to a pixel; seed 0. With `keep` it is cached.
    """
    return _fitted(_arrays(image, label, classes, progress, keep), classes)


def fit_once(
    image: UInt8[np.ndarray, "n h w c"],
    label: Int32[np.ndarray, " n"],
    classes: int,
    progress: Progress = silent,
) -> Fitted:
    """`fit`, cached, by process 0 alone; all processes get the same parameters."""
    arrays = functools.partial(_arrays, image, label, classes, progress, True)
    return _fitted(exchange.from_main(arrays), classes)


def _arrays(
    image: np.ndarray, label: np.ndarray, classes: int, progress: Progress, keep: bool
) -> cache.Arrays:
    def make() -> cache.Arrays:
        params = jax.device_get(_train(image, label, classes, progress))
        total = _total_variance(params, image, classes)
        flat: cache.Arrays = flatten_dict(params, sep="/")  # type: ignore
        return {**flat, "scale": np.asarray(10 / np.sqrt(max(total, 1e-12)))}

    name = cache.digest(image, label, np.array([classes, RECIPE]))
    return cache.cached_arrays(f"classifier-{name}", make) if keep else make()


def _fitted(arrays: cache.Arrays, classes: int) -> Fitted:
    digest = cache.digest(*(arrays[name] for name in sorted(arrays)))
    scale = arrays.pop("scale")
    return Fitted(unflatten_dict(arrays, sep="/"), scale, classes, digest)


def rotated(
    image: UInt8[np.ndarray, "n h w c"],
) -> tuple[UInt8[np.ndarray, "m h w c"], Int32[np.ndarray, " m"]]:
    """Every image rotated by 0, 90, 180 and 270 degrees, and the rotation as a label.

    To train on without labels. Source: Gidaris et al. 2018 (arXiv:1803.07728).
    """
    turned = [np.rot90(image, turn, axes=(1, 2)) for turn in range(4)]
    return np.concatenate(turned), np.repeat(np.arange(4, dtype=np.int32), len(image))


def extractor(fitted: Fitted, batch: int = 512) -> Any:
    """A function of images that gives features and logits: see extract.over_batches."""

    def network(params: PyTree, image: UInt8[Array, "n h w c"]) -> Any:
        vector, logits = Classifier(fitted.classes).apply(
            {"params": params}, to_float(image)
        )
        return vector * np.float32(fitted.scale), logits

    return over_batches(network, fitted.params, batch)


def _total_variance(params: PyTree, image: np.ndarray, classes: int) -> float:
    """Sum of the features' variances.

    On one device with default options, as in _train: spread over several, the features
    differ by rounding, and so would the digest of equal parameters.
    """
    network = Classifier(classes)
    vectors: Any = jax.jit(lambda x: network.apply({"params": params}, x)[0])
    total = gaussian.NOTHING
    for start in range(0, len(image), 512):
        piece = np.asarray(vectors(to_float(image[start : start + 512])))
        total = gaussian.merge(total, gaussian.moments(piece))
    return float(np.trace(total.scatter) / (total.n - 1))


def _train(
    image: np.ndarray, label: np.ndarray, classes: int, progress: Progress
) -> PyTree[Array]:
    count = int(np.clip(EPOCHS * len(image) // BATCH, *STEPS))
    tx, step = _step(classes, count)
    example = jnp.zeros((1, *image.shape[1:]))
    params = Classifier(classes).init(jax.random.key(0), example)["params"]
    opt_state = tx.init(params)
    stream = _batches(image, label, count)
    for i in progress(range(count), "training a classifier"):
        params, opt_state = step(params, opt_state, *next(stream), jnp.asarray(i))
    return params


@functools.cache
def _step(classes: int, count: int) -> tuple[optax.GradientTransformation, Any]:
    """The optimizer and compiled step of a training with `count` steps."""
    network = Classifier(classes)
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, count // 10, count)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))

    def step(
        params: PyTree[Array],
        opt_state: PyTree[Array],
        x: UInt8[Array, "n h w c"],
        y: Int[Array, " n"],
        i: Int[Array, ""],
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        rngs = {"dropout": jax.random.fold_in(jax.random.key(0), i)}

        def loss_fn(params: PyTree[Array]) -> Float[Array, ""]:
            variables = {"params": params}
            outputs: Any = network.apply(variables, to_float(x), train=True, rngs=rngs)
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs[1], y)
            return losses.mean()

        updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    # default options: with those of compilation.py, a third faster, the weights depend
    # on the number of virtual devices
    return tx, jax.jit(step, donate_argnums=(0, 1))


def _batches(
    image: np.ndarray, label: np.ndarray, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches from one permutation after another, each shifted by up to a pixel."""
    rng = np.random.default_rng(0)
    waiting = np.empty(0, int)
    h, w = image.shape[1:3]
    for _ in range(count):
        while len(waiting) < BATCH:
            waiting = np.concatenate([waiting, rng.permutation(len(image))])
        chosen, waiting = waiting[:BATCH], waiting[BATCH:]
        framed = np.pad(image[chosen], [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
        down, right = rng.integers(0, 3, 2)
        yield framed[:, down : down + h, right : right + w], label[chosen]
