import jax
import jax.numpy as jnp
import numpy as np
import optax

from sagan import regularisers, state
from sagan.config import RegConfig
from sagan.regularisers import Anchors, consistency, lecam, moved, r1


def test_lecam_by_hand():
    # real above a_F = -1 by 3 and 0 (below it); fake below a_R = 2 by 1 and 0
    real, fake = jnp.array([2.0, -3.0]), jnp.array([1.0, 4.0])
    assert lecam(real, fake, jnp.float32(2), jnp.float32(-1)) == 9 / 2 + 1 / 2


def test_anchors_are_copies_until_the_start_and_then_keep_their_share():
    reg = RegConfig(lecam=0.3, lecam_decay=0.75, lecam_start=2)
    anchors, seen = Anchors(jnp.float32(0), jnp.float32(0)), []
    for step, (real, fake) in enumerate([(8, -8), (4, -4), (0, 4)]):
        now = jnp.float32(real), jnp.float32(fake)
        anchors = moved(reg, jnp.int32(step), anchors, *now)
        seen.append((float(anchors.real), float(anchors.fake)))
    assert seen == [(8, -8), (4, -4), (3, -2)]
    assert moved(reg, jnp.int32(0), None, *now) is None


def test_consistency_by_hand():
    assert consistency(jnp.array([1.0, 2.0]), jnp.array([3.0, 1.0])) == (4 + 1) / 2


def test_r1_of_a_linear_discriminator_is_half_its_squared_slope():
    slope = jnp.arange(8.0).reshape(2, 2, 2)  # squares add up to 140
    x = jnp.ones((3, 2, 2, 2))
    value, grad = jax.value_and_grad(
        lambda w: r1(lambda x: jnp.tensordot(x, w, 3) + 7, x)
    )(slope)
    assert value == 70
    np.testing.assert_allclose(grad, slope)


def test_gradient_of_r1_agrees_with_finite_differences(tiny):
    # double backward through attention, spectral norm and our own convolutions
    game = state.make_game(tiny(d__attention=(4,)))
    d = state.create(game.config).d
    gamma = {"attention4": {**d.params["attention4"], "gamma": jnp.float32(0.7)}}
    params = {**d.params, **gamma}
    x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1), minval=-1)
    y = jnp.arange(4)

    @jax.jit
    def value(params):
        variables = {"params": params, **d.stats}
        return r1(lambda x: game.d.apply(variables, x, y), x)

    grads = jax.jit(jax.grad(value))(params)
    norm = optax.tree.norm(grads)
    eps = 1e-4  # larger ones cross kinks of the ReLUs, where r1 jumps

    def moved_by(t):  # along the gradient, where the slope is its norm
        return value(jax.tree.map(lambda p, g: p + t * g / norm, params, grads))

    assert norm > 0.1
    slope = (moved_by(eps) - moved_by(-eps)) / (2 * eps)
    np.testing.assert_allclose(slope, norm, rtol=0.01)


def test_lazy_values_come_in_the_steps_that_metrics_jsonl_counts_as_multiples():
    values = [
        float(regularisers.lazy(jnp.int32(step), 3, jnp.sum, jnp.ones((1, 1, 1, 2))))
        for step in range(6)  # steps done before; the lines say 1 to 6
    ]
    assert values == [0, 0, 2, 0, 0, 2]
