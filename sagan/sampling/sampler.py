"""uint8 images from a generator, the same for any batch size."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from sagan.config.fields import replace
from sagan.config.schema import Config
from sagan.data.pixels import to_uint8
from sagan.generator import Generator
from sagan.runtime.devices import batch_shardings, padded_batches
from sagan.runtime.progress import bar

Sampler = Callable[[PyTree[Array], Array, Array], Array]
Variables = dict[str, PyTree[Array]]


def latents(
    config: Config, seed: int, indices: Int[np.ndarray, " n"], truncation: float = 0.0
) -> Float[Array, "n z"]:
    """The latents of samples number `indices`; each depends on the seed and its number.

    Values beyond `truncation` are drawn again, unless it is 0, which trades variety for
    quality (Brock et al. 2018, arXiv:1809.11096, section 3.1).
    """
    key = jax.random.key(seed)

    def one(i: Int[Array, ""]) -> Float[Array, " z"]:
        own, shape = jax.random.fold_in(key, i), (config.g.z,)
        if truncation:
            return jax.random.truncated_normal(own, -truncation, truncation, shape)
        return jax.random.normal(own, shape)

    return jax.vmap(one)(jnp.asarray(indices))


def fixed_inputs(
    config: Config, rows: int = 10, columns: int = 8
) -> tuple[Float[Array, "n z"], Int[Array, " n"]]:
    """The latents and labels of a training grid.

    Each row shows one class: at most `rows` of them, spread evenly over all.
    """
    classes = config.data.classes or 0
    shown = np.linspace(0, classes - 1, min(classes, rows)).round().astype(np.int32)
    y = np.repeat(shown, columns) if classes else np.zeros(columns**2, np.int32)
    return latents(config, config.run.seed, np.arange(len(y))), jnp.asarray(y)


def make_sampler(config: Config, *, batch_statistics: bool = False) -> Sampler:
    """A compiled function (variables, z, y) -> uint8 images.

    With batch_statistics it normalises by the moments of the batch, as training does
    (in groups of g.bn_group), instead of the statistics in the variables.
    """
    generator: Any = Generator(config)

    def generate(variables: Variables, z: Array, y: Array) -> Array:
        return to_uint8(generator.apply(variables, z, y, train=batch_statistics))

    return jax.jit(generate)


def samples(
    config: Config,
    variables: Variables,
    labels: Int[np.ndarray, " n"],
    *,
    seed: int,
    truncation: float = 0.0,
    batch: int = 64,
    first: int = 0,
    sampler: Sampler | None = None,
) -> Iterator[UInt8[np.ndarray, "m h w c"]]:
    """Images of the labels in order, in pieces of at most `batch`.

    `first` is the number of the first sample. The batch changes them by rounding at
    most, unless the sampler uses batch statistics. A sampler from make_sampler is
    compiled once for several calls; see state.generator_variables for the variables,
    `latents` for seed and truncation.
    """
    images = padded_batches(sampler or make_sampler(config), variables, batch)
    for start in range(0, len(labels), batch):
        z = latents(config, seed, first + start + np.arange(batch), truncation)
        yield images(z, labels[start : start + batch].astype(np.int32))


STANDING_BATCHES = 32
_STANDING_LATENTS = 2**30  # first number of their latents, beyond those of samples


def make_standing(config: Config) -> Callable[..., Variables]:
    """A function (variables, seed, truncation) -> variables with standing statistics.

    The batch statistics become the means of the moments of 32 batches of
    config.data.batch images (in groups of g.bn_group), with latents that no sample uses
    and labels drawn evenly: the normalisation that these weights see in training.

    Source: Brock et al. 2018 (arXiv:1809.11096), section 3.1; as in BigGAN-PyTorch and
    StudioGAN, variances are averaged, without the variance of the means.
    """
    no_memory = {"g.bn_momentum": 0.0, "g.bn_momentum_out": 0.0}
    generator = Generator(replace(config, no_memory))
    batch, classes = config.data.batch, config.data.classes or 1
    by_image, everywhere = batch_shardings(batch)

    @jax.jit
    def moments(variables: Variables, z: Array, y: Array) -> PyTree[Array]:
        mutable = ["batch_stats"]
        result: Any = generator.apply(variables, z, y, train=True, mutable=mutable)
        return result[1]["batch_stats"]

    def standing(variables: Variables, seed: int, truncation: float = 0.0) -> Variables:
        variables = jax.device_put(variables, everywhere)
        rng = np.random.default_rng(seed)
        found = []
        for i in bar(range(STANDING_BATCHES), "standing statistics"):
            numbers = _STANDING_LATENTS + i * batch + np.arange(batch)
            y = rng.integers(0, classes, batch, np.int32)
            z = latents(config, seed, numbers, truncation)
            inputs = jax.device_put((z, y), by_image)
            found.append(jax.device_get(moments(variables, *inputs)))
        mean = jax.tree.map(lambda *x: np.mean(x, axis=0, dtype=np.float64), *found)
        stats = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), mean)
        return {**variables, "batch_stats": stats}

    return standing
