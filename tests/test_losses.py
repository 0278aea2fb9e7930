import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sagan.losses import LOSSES


def softplus(x):
    return np.log1p(np.exp(x))


@pytest.mark.parametrize(
    ("name", "real", "fake", "d_loss", "g_loss"),
    [
        # max(0, 1-2), max(0, 1-0) average to 0.5; max(0, 1+(-3)), max(0, 1+1) to 1.
        ("hinge", [2.0, 0.0], [-3.0, 1.0], 1.5, 1.0),
        ("wasserstein", [2.0, 0.0], [-3.0, 1.0], -2.0, 1.0),
        # ((1 + 1) / 2 + (9 + 1) / 2) / 2 and (16 + 0) / 2 / 2
        ("least_squares", [2.0, 0.0], [-3.0, 1.0], 3.0, 4.0),
        (
            "non_saturating",
            [2.0, 2.0],
            [-3.0, -3.0],
            softplus(-2.0) + softplus(-3.0),
            softplus(3.0),
        ),
    ],
)
def test_loss_by_hand(name, real, fake, d_loss, g_loss):
    loss = LOSSES[name]
    real, fake = jnp.array(real), jnp.array(fake)
    np.testing.assert_allclose(loss.discriminator(real, fake), d_loss, rtol=1e-6)
    np.testing.assert_allclose(loss.generator(fake), g_loss, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_each_player_gains_by_moving_the_logits_its_way(name):
    loss = LOSSES[name]
    real, fake = jnp.array([0.3, -0.2]), jnp.array([0.1, 0.4])
    by_real, by_fake = jax.grad(loss.discriminator, argnums=(0, 1))(real, fake)
    assert (by_real < 0).all() and (by_fake > 0).all()
    assert (jax.grad(loss.generator)(fake) < 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_give_finite_losses(name):
    big = jnp.array([1e4, -1e4])
    assert jnp.isfinite(LOSSES[name].discriminator(big, big))
    assert jnp.isfinite(LOSSES[name].generator(big))
