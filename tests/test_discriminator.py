"""Frozen blocks: d.freeze."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sagan import state as state_lib
from sagan import step as step_lib
from sagan.data.pipeline import Batch
from sagan.discriminator import frozen_layers, without_gradients
from sagan.training.divergence import Detector
from sagan.training.monitor import leaf_names

BLOCKS = 2  # of the tiny discriminator; attention follows the first


def images(config):
    rng = np.random.default_rng(0)
    shape = (config.data.batch, config.data.size, config.data.size, 1)
    x = rng.uniform(-1, 1, shape).astype(np.float32)
    return x, rng.integers(0, 10, config.data.batch, np.int32)


@pytest.fixture(scope="module")
def frozen_steps(tiny):
    """The state before and after three steps with one frozen block, and scalars."""
    game = state_lib.make_game(tiny(d__freeze=1))
    x, y = images(game.config)
    batch = Batch(np.uint8(127.5 * (x[None] + 1)), y[None])
    step = jax.jit(partial(step_lib.train_step, game))
    state, values = before = state_lib.create_state(game), []
    for _ in range(3):
        state, scalars = step(state, batch)
        values.append(jax.device_get(scalars))
    return jax.device_get((before[0], state)), values


def test_frozen_blocks_keep_their_weights_bit_for_bit_and_the_rest_moves(frozen_steps):
    (before, after), _ = frozen_steps
    for path, old in jax.tree_util.tree_leaves_with_path(before.d.params):
        new = after.d.params
        for key in path:
            new = new[key.key]
        same = np.asarray(old).tobytes() == np.asarray(new).tobytes()
        if path[0].key in ("block1", "attention4"):
            assert same, path
        elif path[-1].key == "kernel":
            assert not same, path
    for name in ("block1", "attention4"):  # neither do Adam's moments start
        moments = (after.d.opt_state[0].mu[name], after.d.opt_state[0].nu[name])
        assert not any(np.any(x) for x in jax.tree.leaves(moments))


def test_spectral_vectors_of_frozen_blocks_move(frozen_steps):
    (before, after), _ = frozen_steps
    old, new = (s.d.stats["spectral"]["block1"]["conv2"] for s in (before, after))
    assert (old["u"] != new["u"]).any() and old["sigma"] != new["sigma"]


def test_frozen_blocks_are_no_finding(frozen_steps):
    (before, _), values = frozen_steps
    detector = Detector(leaf_names(before))
    found = []
    for step in range(60):  # longer than any streak
        scalars = {name: float(v) for name, v in values[step % 3].items()}
        assert np.isfinite([*scalars.values()]).all()
        found += detector.examine(step, scalars)
    assert found == []


def test_attention_counts_with_the_block_before_it(tiny):
    def layers(**changes):
        return frozen_layers(tiny(**changes))

    assert layers() == []
    assert layers(d__freeze=1) == ["block1", "attention4"]
    assert layers(d__freeze=2) == ["block1", "attention4", "block2"]
    assert layers(d__freeze=1, d__attention=()) == ["block1"]
    assert layers(d__freeze=1, d__block="residual") == ["block1", "residual4"]


@pytest.mark.parametrize("block", ["attention", "residual", "none"])
def test_every_frozen_layer_has_its_weights_held(tiny, block):
    config = tiny(d__freeze=BLOCKS, d__block=block)
    params = state_lib.abstract(config).d.params
    assert set(frozen_layers(config)) | {"logit", "embed"} >= set(params)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), params)

    def total(params):
        held = without_gradients(params, frozen_layers(config))
        return sum(x.sum() for x in jax.tree.leaves(held))

    grads = jax.grad(total)(zeros)
    moved = {name for name in grads if any(map(np.any, jax.tree.leaves(grads[name])))}
    assert moved == {"logit", "embed"}


def test_gradients_of_frozen_blocks_are_not_computed(tiny):
    def convolutions(freeze):
        game = state_lib.make_game(tiny(d__freeze=freeze))
        x, y = images(game.config)
        start = state_lib.abstract_state(game)
        traced = jax.make_jaxpr(partial(step_lib.d_step, game, purpose=1))(start, x, y)
        return str(traced).count("conv_general_dilated[")

    none, first, both = map(convolutions, range(BLOCKS + 1))
    assert none > first > both
    params = {"block1": {"kernel": jnp.zeros(3)}}
    assert without_gradients(params, frozen_layers(tiny())) is params  # the same step
