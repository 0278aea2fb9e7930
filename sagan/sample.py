"""Images from a generator: uint8, batch by batch, the same in any batch size."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from sagan.generator import Generator
from sagan.schema import Config

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


def to_uint8(x: Float[Array, "n h w c"]) -> UInt8[Array, "n h w c"]:
    """From [-1, 1] to [0, 255], to the nearest. The inverse of data.to_float."""
    return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)


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


def make_sampler(config: Config) -> Sampler:
    """A compiled function (variables, z, y) -> uint8 images, in evaluation mode."""
    return jax.jit(partial(_generate, Generator(config)))


def _generate(
    generator: Generator,
    variables: PyTree[Array],
    z: Float[Array, "n z"],
    y: Int[Array, " n"],
) -> UInt8[Array, "n h w c"]:
    images: Any = generator.apply(variables, z, y, train=False)
    return to_uint8(images)


def samples(
    config: Config,
    variables: PyTree[Array],
    labels: Int[np.ndarray, " n"],
    *,
    seed: int,
    truncation: float = 0.0,
    batch: int = 64,
) -> Iterator[UInt8[np.ndarray, "m h w c"]]:
    """Images of the labels in order, in pieces of at most `batch`.

    Args:
      config: of the experiment.
      variables: the generator's collections; see state.generator_variables.
      labels: one for each image.
      seed: of the latents.
      truncation: see `latents`.
      batch: images generated at once; changes them by rounding at most.
    """
    sampler = make_sampler(config)
    for start in range(0, len(labels), batch):
        y = labels[start : start + batch]
        # the last piece is filled up, so that one shape is compiled
        filled = np.resize(y, batch) if len(labels) > batch else y
        indices = start + np.arange(len(filled))
        z = latents(config, seed, indices, truncation)
        images = sampler(variables, z, jnp.asarray(filled, jnp.int32))
        yield np.asarray(images)[: len(y)]
