"""Adversarial losses: what each player minimises, from the logits."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Logits = Float[Array, " n"]
Scalar = Float[Array, ""]


class GANLoss(NamedTuple):
    """The two halves of a loss.

    Attributes:
      discriminator: (logits of real images, logits of generated images) -> loss.
      generator: (logits of generated images) -> loss.
    """

    discriminator: Callable[[Logits, Logits], Scalar]
    generator: Callable[[Logits], Scalar]


def hinge_d(real: Logits, fake: Logits) -> Scalar:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]; arXiv:1805.08318, eq. 4."""
    return jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))


def wasserstein_g(fake: Logits) -> Scalar:
    """-E[D(G(z))]; also the hinge loss's half, arXiv:1805.08318, eq. 4."""
    return -jnp.mean(fake)


def non_saturating_d(real: Logits, fake: Logits) -> Scalar:
    """-E[log s(D(x))] - E[log(1 - s(D(G(z))))], s the sigmoid; arXiv:1406.2661."""
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def non_saturating_g(fake: Logits) -> Scalar:
    """-E[log s(D(G(z)))]; arXiv:1406.2661, section 3."""
    return jnp.mean(jax.nn.softplus(-fake))


def wasserstein_d(real: Logits, fake: Logits) -> Scalar:
    """E[D(G(z))] - E[D(x)]; arXiv:1701.07875, eq. 2. D's slope is bounded by SN."""
    return jnp.mean(fake) - jnp.mean(real)


def least_squares_d(real: Logits, fake: Logits) -> Scalar:
    """(E[(D(x) - 1)^2] + E[D(G(z))^2]) / 2; arXiv:1611.04076, eq. 2, a=0, b=1."""
    return (jnp.mean((real - 1) ** 2) + jnp.mean(fake**2)) / 2


def least_squares_g(fake: Logits) -> Scalar:
    """E[(D(G(z)) - 1)^2] / 2; arXiv:1611.04076, eq. 2, c=1."""
    return jnp.mean((fake - 1) ** 2) / 2


LOSSES = {
    "hinge": GANLoss(hinge_d, wasserstein_g),
    "non_saturating": GANLoss(non_saturating_d, non_saturating_g),
    "wasserstein": GANLoss(wasserstein_d, wasserstein_g),
    "least_squares": GANLoss(least_squares_d, least_squares_g),
}
