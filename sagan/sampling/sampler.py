"""Images from a generator: uint8, batch by batch, the same in any batch size."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from sagan.config.fields import replace
from sagan.config.schema import Config
from sagan.data.pixels import to_uint8
from sagan.generator import Generator
from sagan.runtime.devices import spread

Sampler = Callable[[PyTree[Array], Array, Array], Array]


def latents(
    config: Config, seed: int, indices: Int[np.ndarray, " n"], truncation: float = 0.0
) -> Float[Array, "n z"]:
    """The latents of samples number `indices` of a seed, each by itself.

    Args:
      config: gives the length.
      seed: of the series.
      indices: which of the series; sample i is the same in any company.
      truncation: numbers beyond this are drawn again, which trades variety for
        quality (Brock et al. 2018, arXiv:1809.11096, section 3.1); 0: none is.
    """
    key = jax.random.key(seed)

    def one(i: Int[Array, ""]) -> Float[Array, " z"]:
        shape = (config.g.z,)
        if truncation:
            t = truncation
            return jax.random.truncated_normal(jax.random.fold_in(key, i), -t, t, shape)
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    return jax.vmap(one)(jnp.asarray(indices))


def fixed_inputs(
    config: Config, rows: int = 10, columns: int = 8
) -> tuple[Float[Array, "n z"], Int[Array, " n"], int]:
    """The latents and labels of a training grid, and its columns.

    A row shows one class: at most `rows` of them, spread evenly over all.
    """
    classes = config.data.classes or 0
    shown = np.linspace(0, classes - 1, min(classes, rows)).round().astype(np.int32)
    y = np.repeat(shown, columns) if classes else np.zeros(columns**2, np.int32)
    return latents(config, config.run.seed, np.arange(len(y))), jnp.asarray(y), columns


def make_sampler(config: Config, *, batch_statistics: bool = False) -> Sampler:
    """A compiled function (variables, z, y) -> uint8 images.

    Args:
      config: of the experiment.
      batch_statistics: normalise by the moments of the batch, as training does (by
        groups of g.bn_group); else by the statistics in the variables.
    """
    generator = Generator(config)
    return jax.jit(partial(_generate, generator, train=batch_statistics))


def _generate(
    generator: Generator,
    variables: PyTree[Array],
    z: Float[Array, "n z"],
    y: Int[Array, " n"],
    *,
    train: bool,
) -> UInt8[Array, "n h w c"]:
    images: Any = generator.apply(variables, z, y, train=train)
    return to_uint8(images)


def samples(
    config: Config,
    variables: PyTree[Array],
    labels: Int[np.ndarray, " n"],
    *,
    seed: int,
    truncation: float = 0.0,
    batch: int = 64,
    sampler: Sampler | None = None,
) -> Iterator[UInt8[np.ndarray, "m h w c"]]:
    """Images of the labels in order, in pieces of at most `batch`.

    Args:
      config: of the experiment.
      variables: the generator's collections; see state.generator_variables.
      labels: one for each image.
      seed: of the latents.
      truncation: see `latents`.
      batch: images generated at once, spread over the devices; changes them by
        rounding at most, unless the sampler uses batch statistics.
      sampler: of make_sampler, to compile once for several calls.
    """
    sampler = sampler or make_sampler(config)
    by_image, everywhere = spread(batch)
    variables = jax.device_put(variables, everywhere)
    for start in range(0, len(labels), batch):
        y = labels[start : start + batch]
        filled = np.resize(y, batch)  # so that one shape is compiled
        z = latents(config, seed, start + np.arange(batch), truncation)
        inputs = jax.device_put((z, filled.astype(np.int32)), by_image)
        yield np.asarray(sampler(variables, *inputs))[: len(y)]


STANDING_BATCHES = 32
_STANDING_LATENTS = 2**30  # from this number on, which no sample has


def make_standing(
    config: Config, progress: Callable[..., Any] = lambda items, what: items
) -> Callable[..., dict[str, PyTree[Array]]]:
    """A function (variables, seed, truncation) -> variables with standing statistics.

    The batch statistics are the means, over 32 batches of config.data.batch images of
    latents that no sample uses and of labels drawn evenly, of each batch's own moments
    (of its groups of g.bn_group): the normalisation that these weights see in
    training. Nothing else changes.

    Source: Brock et al. 2018 (arXiv:1809.11096), section 3.1; as in BigGAN-PyTorch and
    StudioGAN, variances are averaged, without the variance of the means.
    """
    now = {"g.bn_momentum": 0.0, "g.bn_momentum_out": 0.0}  # keep nothing from before
    generator = Generator(replace(config, now))
    batch, classes = config.data.batch, config.data.classes or 1
    by_image, everywhere = spread(batch)

    @jax.jit
    def moments(variables: PyTree[Array], z: Array, y: Array) -> PyTree[Array]:
        mutable = ["batch_stats"]
        result: Any = generator.apply(variables, z, y, train=True, mutable=mutable)
        return result[1]["batch_stats"]

    def standing(
        variables: dict[str, PyTree[Array]], seed: int, truncation: float = 0.0
    ) -> dict[str, PyTree[Array]]:
        variables = jax.device_put(variables, everywhere)
        rng = np.random.default_rng(seed)
        found = []
        for i in progress(range(STANDING_BATCHES), "standing statistics"):
            numbers = _STANDING_LATENTS + i * batch + np.arange(batch)
            y = rng.integers(0, classes, batch, np.int32)
            z = latents(config, seed, numbers, truncation)
            inputs = jax.device_put((z, y), by_image)
            found.append(jax.device_get(moments(variables, *inputs)))
        mean = jax.tree.map(lambda *x: np.mean(x, axis=0, dtype=np.float64), *found)
        stats = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), mean)
        return {**variables, "batch_stats": stats}

    return standing
