"""Regularisers of the discriminator's loss: plain functions of logits and images.

Each is an equation; `penalties` says which of them a config switches on.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from sagan.augment import Images, augment
from sagan.config.schema import Config, RegConfig
from sagan.losses import Logits, Scalar

SIDES = ("real", "fake")


def lecam(real: Logits, fake: Logits, real_mean: Scalar, fake_mean: Scalar) -> Scalar:
    """E[max(0, D(x) - a_F)^2] + E[max(0, a_R - D(G(z)))^2].

    The anchors are moving averages of the mean logit of reals, a_R, and fakes, a_F.

    Source: arXiv:2104.03310. The paper squares both differences whatever their sign;
    its code, followed here, clips each difference at zero first.
    """
    above = jax.nn.relu(real - fake_mean)
    below = jax.nn.relu(real_mean - fake)
    return jnp.mean(above**2) + jnp.mean(below**2)


def consistency(logits: Logits, variant_logits: Logits) -> Scalar:
    """E[(D(x) - D(T(x)))^2], T an augmentation.

    Source: arXiv:1910.12027, of real images (CR); arXiv:2002.04724, algorithm 1, of
    generated images too (bCR).
    """
    return jnp.mean((logits - variant_logits) ** 2)


def r1(discriminator: Callable[[Images], Logits], x: Images) -> Scalar:
    """E[|grad_x D(x)|^2] / 2; arXiv:1801.04406, equation 9."""
    gradient = jax.grad(lambda x: discriminator(x).sum())(x)
    return jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3))) / 2


@struct.dataclass
class Anchors:
    """Moving averages of the mean logits of real and generated images."""

    real: Any
    fake: Any


def moved(
    reg: RegConfig,
    step: Int[Array, ""],
    anchors: Anchors | None,
    real_mean: Scalar,
    fake_mean: Scalar,
) -> Anchors | None:
    """LeCam's anchors after a D update with these mean logits over all devices.

    They are copies until reg.lecam_start; None stays None.
    """
    if anchors is None:
        return None
    keep = jnp.where(step < reg.lecam_start, 0.0, reg.lecam_decay)
    now = Anchors(real_mean, fake_mean)
    return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, anchors, now)


def views(
    config: Config, x: Images, fake: Images, keys: Key[Array, " n"] | None
) -> dict[str, Images]:
    """The images that D sees in its update: reals, fakes, each side's variants for bCR.

    Args:
      config: The experiment's config.
      x: Real images.
      fake: Generated images.
      keys: One for each example; None: nothing is augmented.
    """
    seen = {"real": x, "fake": fake}
    if keys is None:
        return seen

    def own(i: int) -> Key[Array, " n"]:
        return jax.vmap(jax.random.fold_in, (0, None))(keys, i)

    for i, side in enumerate(SIDES):
        seen[side] = augment(config.augment.policy, own(i), seen[side])
    for i, side in enumerate(SIDES, start=len(SIDES)):
        if consistency_weight(config.reg, side):
            policy = config.reg.consistency_policy
            seen[f"{side}_variant"] = augment(policy, own(i), seen[side])
    return seen


def penalties(
    reg: RegConfig,
    step: Int[Array, ""],
    anchors: Anchors | None,
    logits: Mapping[str, Logits],
    discriminator: Callable[[Images], Logits],
    x: Images,
) -> dict[str, tuple[Scalar | float, Scalar]]:
    """Weight and value of each regulariser that is switched on, by its field's name.

    Args:
      reg: The section of the config.
      step: Number of train steps done.
      anchors: Averages of earlier D updates, for LeCam: with those of this one, the
        update would depend on the order of devices and micro-batches.
      logits: The logits of `views`, by name.
      discriminator: Images to logits, with the labels of x.
      x: Real images, augmented if fakes are.
    """
    found: dict[str, tuple[Any, Any]] = {}
    if anchors is not None:
        weight = jnp.where(step < reg.lecam_start, 0.0, reg.lecam)
        value = lecam(logits["real"], logits["fake"], anchors.real, anchors.fake)
        found["lecam"] = weight, value
    for side in SIDES:
        if weight := consistency_weight(reg, side):
            value = consistency(logits[side], logits[f"{side}_variant"])
            found[f"consistency_{side}"] = weight, value
    if reg.r1:
        value = lazy(step, reg.r1_interval, lambda x: r1(discriminator, x), x)
        found["r1"] = reg.r1 * reg.r1_interval, value
    return found


def consistency_weight(reg: RegConfig, side: str) -> float:
    """The weight of bCR for "real" or "fake" images."""
    return reg.consistency_real if side == "real" else reg.consistency_fake


def lazy(
    step: Int[Array, ""], interval: int, value: Callable[[Images], Scalar], x: Images
) -> Scalar:
    """value(x) in steps that are multiples of the interval; else 0, at no cost."""
    if interval == 1:
        return value(x)
    due = (step + 1) % interval == 0  # counted as metrics.jsonl does: the first is 1
    return jax.lax.cond(due, value, lambda x: jnp.zeros(()), x)
