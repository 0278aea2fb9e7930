"""The networks and steps against tests/oracle.py, the same in NumPy and float64.

Everything that starts at zero, at one or at rest (gamma, biases, batch-norm tables,
moving averages, Adam's moments) is random here, so that nothing hides behind it.
Tolerances are relative to the largest entry of the array.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sagan import losses
from sagan.config import Config, check_config, replace
from sagan.discriminator import Discriminator
from sagan.generator import Generator
from sagan.state import GANState, Player, make_game
from sagan.step import G_UPDATE, d_step, draw_latents, g_step
from tests.support import oracle

ROUNDING = 2e-5  # float32 through a network: 6e-8 an operation
N = 4

# each function runs once or twice: compiling it well would take twice as long
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)

# G: two blocks that double. D: two that halve, one whose shortcut is the identity, one
# whose shortcut only changes the channels; attention follows the first at 4x4.
BASE = {
    "data.size": 16,
    "data.classes": 3,
    "data.batch": N,
    "g.z": 5,
    "g.width": 8,
    "g.multipliers": (2, 2, 1),
    "g.attention": (8,),
    "g.bn_group": 2,
    "g.bn_momentum": 0.6,
    "g.bn_momentum_out": 0.8,
    "g.bn_eps": 1e-3,
    "d.width": 8,
    "d.multipliers": (1, 2, 2, 1),
    "d.attention": (4,),
    "model.fast": False,
}
VARIANTS = {
    "official": {},
    "unconditional": {"data.classes": 0, "g.bn_group": 0},
    "fast-and-normalised-tables": {
        "model.fast": True,
        "g.sn_tables": "channels",
        "model.sn_eps": 0.1,
    },
    "peers": {
        "g.sn_tables": "classes",
        "g.bn_unbiased": True,
        "d.rectified_shortcut": True,
        "model.sn_eps": 1.0,  # among the norms of these random weights
        "model.sn_clamp": True,
    },
}
# over TINY: the update rules that the docstring of sagan/step.py names
RULES = {
    "official": {},
    "studiogan": {
        "rule.d_passes": "apart",
        "rule.g_step_moves_d": True,
        "rule.d_step_moves_averages": False,
        "g.bn_unbiased": True,
        "model.sn_detach": True,
    },
    "biggan": {
        "rule.g_step_moves_d": True,
        "rule.sequential_micro_batches": True,
        "optim.accumulate": 2,
        "g.bn_unbiased": True,
        "model.sn_detach": True,
    },
}


# over BASE, for the steps: everything, but as few weights as can be, because the
# oracle's gradient evaluates the loss once for each
TINY = {
    "data.size": 8,
    "g.multipliers": (1, 1),
    "d.multipliers": (1, 1),
    "optim.g_lr": 0.01,
    "optim.d_lr": 0.02,
    "optim.betas": (0.5, 0.9),  # Adam's official first step is the gradient's sign
    "optim.eps": 1e-3,
}
MOMENT = 0.02  # of Adam, about the size of the gradient
CONVENTIONS = {"through-the-iteration": False, "vectors-constant": True}
Y = np.array([2, 0, 1, 2])


each_rule = pytest.mark.parametrize(
    "rule",
    ["official", "studiogan", pytest.param("biggan", marks=pytest.mark.slow)],
)


def make(values):
    config = replace(Config(), {**BASE, **values})
    check_config(config)
    return config


def recipe(config):
    blocks, size = 0, config.data.size
    while size > 7:
        size, blocks = size // 2, blocks + 1
    return oracle.Recipe(
        halvings=blocks,
        bn_group=config.g.bn_group,
        bn_momentum=config.g.bn_momentum,
        bn_momentum_out=config.g.bn_momentum_out,
        bn_eps=config.g.bn_eps,
        sn_eps=config.model.sn_eps,
        sn_detach=config.model.sn_detach,
        g_lr=config.optim.g_lr,
        d_lr=config.optim.d_lr,
        betas=config.optim.betas,
        adam_eps=config.optim.eps,
        sn_clamp=config.model.sn_clamp,
        rectified_shortcut=config.d.rectified_shortcut,
        bn_unbiased=config.g.bn_unbiased,
        apart=config.rule.d_passes == "apart",
        g_step_moves_d=config.rule.g_step_moves_d,
        d_step_moves_averages=config.rule.d_step_moves_averages,
        parts=config.optim.accumulate,
    )


def shapes(config):
    """The variables of G and D, as trees of shapes."""
    z, x = float32((latents(config, 0), images(config, 0)))
    key, y = jax.random.key(0), jnp.asarray(Y)
    init = functools.partial(Generator(config).init, train=True)
    return (
        jax.eval_shape(init, key, z, y),
        jax.eval_shape(Discriminator(config).init, key, x, y),
    )


def fill(tree, rng):
    """Random values of the shapes in `tree`."""

    def value(path, shape):
        normal = rng.normal(size=shape)
        match path[-1]:
            case "kernel" | "embedding":
                return normal / np.sqrt(np.prod(shape[:-1]))
            case "var":
                return rng.uniform(0.5, 1.5, shape)
            case "scale" | "gamma" | "sigma":
                return 1 + 0.3 * normal
            case "u":
                return normal  # far from the singular vector, and not of length one
            case _:
                return 0.3 * normal

    filled = jax.tree.map(lambda leaf: leaf, tree)
    for path, leaf in oracle.leaves(tree):
        oracle.get(filled, path[:-1])[path[-1]] = exact(value(path, leaf.shape))
    return filled


def exact(x):
    """The nearest that float32 holds, so that both sides start at the same numbers."""
    return np.asarray(x, np.float32).astype(np.float64)


def images(config, seed):
    size, channels = config.data.size, config.data.channels
    rng = np.random.default_rng(seed)
    return exact(rng.uniform(-1, 1, (N, size, size, channels)))


def latents(config, seed):
    return exact(np.random.default_rng(seed).normal(size=(N, config.g.z)))


def float32(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def split(variables):
    """(params, everything else)."""
    stats = dict(variables)
    return stats.pop("params"), stats


def assert_close(actual, expected, rtol=ROUNDING, floor=0.0):
    actual, expected = ({"value": tree} for tree in (actual, expected))
    actual, expected = dict(oracle.leaves(actual)), dict(oracle.leaves(expected))
    assert actual.keys() == expected.keys()
    for path, leaf in expected.items():
        assert np.shape(actual[path]) == np.shape(leaf), path
        worst = np.abs(np.asarray(actual[path], np.float64) - leaf).max()
        size = max(np.abs(leaf).max(), floor)
        assert worst <= rtol * size, ("/".join(path), worst, size)


@functools.cache
def networks(config):
    """Variables of G and D, and their compiled forward passes."""
    g, d = (fill(tree, np.random.default_rng(13)) for tree in shapes(config))

    @functools.partial(quick_jit, static_argnames="train")
    def generate(variables, z, train):
        mutable = ["batch_stats", "spectral"]
        return Generator(config).apply(
            variables, z, jnp.asarray(Y), train=train, mutable=mutable
        )

    @quick_jit
    def discriminate(variables, x):
        return Discriminator(config).apply(
            variables, x, jnp.asarray(Y), mutable=["spectral"]
        )

    return g, d, generate, discriminate


def test_networks_have_the_layers_of_the_recipe():
    conv = lambda name: [f"{name}/bias", f"{name}/kernel"]  # noqa: E731
    pair = [*conv("conv1"), *conv("conv2")]
    slot = ["f/kernel", "g/kernel", "gamma", "h/kernel", "v/kernel"]
    norms = [f"{bn}/{leaf}" for bn in ("bn1", "bn2") for leaf in ("bias", "scale")]
    short = conv("shortcut")

    def under(**layers):
        return {f"{name}/{leaf}" for name, found in layers.items() for leaf in found}

    bare, block = ["bias", "kernel"], [*norms, *pair, *short]
    wanted_g = under(stem=bare, out=bare, bn_out=["bias", "scale"], block1=block)
    wanted_g |= under(block2=block, attention8=slot)
    wanted_d = under(block1=[*pair, *short], block2=[*pair, *short], block3=pair)
    wanted_d |= under(block4=[*pair, *short], attention4=slot)
    wanted_d |= under(logit=bare, embed=["embedding"])
    for tree, wanted in zip(shapes(make({})), (wanted_g, wanted_d), strict=True):
        assert {"/".join(path) for path, _ in oracle.leaves(tree["params"])} == wanted


def test_official_networks_have_the_official_number_of_parameters():
    # 1000 classes, attention at 32; the formula is StudioGAN's logged counts' too
    config = replace(Config(), {"data.classes": 1000})
    counts = [
        sum(leaf.size for _, leaf in oracle.leaves(tree["params"]))
        for tree in shapes(config)
    ]
    assert counts == [42_078_852, 39_463_618]


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_generator_images_u_and_moving_averages_are_the_oracles(variant, train):
    config = make(VARIANTS[variant])
    g, _, generate, _ = networks(config)
    z = latents(config, 2)
    fake, stats = generate(float32(g), jnp.asarray(z, jnp.float32), train)
    wanted, wanted_stats = oracle.generator(
        *split(g), z, Y, train=train, recipe=recipe(config)
    )
    assert_close(fake, wanted)
    assert_close(stats, wanted_stats)
    assert fake.dtype == jnp.float32
    if not train:
        assert_close(stats["batch_stats"], g["batch_stats"], rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_discriminator_logits_and_u_are_the_oracles(variant):
    config = make(VARIANTS[variant])
    _, d, _, discriminate = networks(config)
    x = images(config, 3)
    logits, stats = discriminate(float32(d), jnp.asarray(x, jnp.float32))
    wanted, wanted_stats = oracle.discriminator(*split(d), x, Y, recipe=recipe(config))
    assert_close(logits, wanted)
    assert_close(stats, wanted_stats)


def on_both_sides(real, fake):
    """Whether each half of the hinge loss has images on both sides of its kink."""
    return all(0 < (half < 1).sum() < N for half in (real, -fake))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradients_of_both_losses_are_the_oracles(convention):
    detach = CONVENTIONS[convention]
    config = make({"model.sn_detach": detach, "model.fast": not detach})
    numbers, hinge = recipe(config), losses.LOSSES["hinge"]
    rng = np.random.default_rng(13)
    g, d = (fill(tree, rng) for tree in shapes(config))
    (g_params, g_stats), (d_params, d_stats) = split(g), split(d)
    x, z, params = images(config, 3), latents(config, 2), {"g": g_params, "d": d_params}

    @quick_jit
    @jax.value_and_grad
    def flax_loss(params):
        variables, mutable = {"params": params["g"], **float32(g_stats)}, list(g_stats)
        fake, _ = Generator(config).apply(
            variables, float32(z), jnp.asarray(Y), train=True, mutable=mutable
        )
        both, labels = jnp.concatenate([float32(x), fake]), jnp.asarray([*Y, *Y])
        variables = {"params": params["d"], **float32(d_stats)}
        real, fake = jnp.split(Discriminator(config).apply(variables, both, labels), 2)
        return hinge.discriminator(real, fake) + 0.3 * hinge.generator(fake)

    def numpy_loss(params):
        fake, _ = oracle.generator(
            params["g"], g_stats, z, Y, train=True, recipe=numbers
        )
        real, fake = (
            oracle.discriminator(params["d"], d_stats, images, Y, recipe=numbers)[0]
            for images in (x, fake)
        )
        assert on_both_sides(real, fake)
        return oracle.hinge_d(real, fake) + 0.3 * oracle.hinge_g(fake)

    value, grads = flax_loss(float32(params))
    assert_close(value, numpy_loss(params))
    everything = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(grads)))
    zeros = oracle.tree_map(np.zeros_like, params)
    for path, leaf in oracle.leaves(params):
        along = rng.normal(size=leaf.shape)
        direction = oracle.tree_map(np.asarray, zeros)
        oracle.get(direction, path[:-1])[path[-1]] = along
        grad = np.asarray(oracle.get(grads, path), np.float64)
        error = (grad * along).sum() - oracle.slope(numpy_loss, params, direction)
        # a sum with random weights is about as large as the gradient is long; some
        # gradients are zero: a bias before batch normalisation
        scale = np.sqrt((grad**2).sum()) + 1e-3 * everything
        assert abs(error) <= ROUNDING * scale, (path, error / scale)


def test_oracles_complex_step_is_the_finite_difference():
    config, rng = make(TINY), np.random.default_rng(13)
    params, stats = split(fill(shapes(config)[1], rng))
    x, numbers = images(config, 3), recipe(config)
    along = oracle.tree_map(lambda p: rng.normal(size=p.shape), params)

    def loss(params):
        logits, _ = oracle.discriminator(params, stats, x, Y, recipe=numbers)
        return (logits * logits).mean()

    def shifted(size):
        return loss(oracle.tree_map(lambda p, d: p + size * d, params, along))

    difference = (shifted(1e-6) - shifted(-1e-6)) / 2e-6
    slope = oracle.slope(loss, params, along)
    assert slope == pytest.approx(difference, rel=1e-6)


def test_oracles_gradient_is_the_slope_along_each_weight():
    rng = np.random.default_rng(13)
    params, along = ({"w": {"x": rng.normal(size=(2, 3))}} for _ in range(2))

    def loss(params):
        return oracle.l2_normalize(params["w"]["x"], 0.1)[0].sum()

    total = (oracle.gradient(loss, params)["w"]["x"] * along["w"]["x"]).sum()
    assert total == pytest.approx(oracle.slope(loss, params, along), rel=1e-12)


def test_oracles_power_iteration_finds_the_largest_singular_value():
    rng = np.random.default_rng(2)
    kernel, stats = rng.normal(size=(3, 3, 4, 6)), {"u": rng.normal(size=(1, 6))}
    for _ in range(300):
        _, stats = oracle.spectral_norm(kernel, stats["u"], recipe(make({})))
    largest = np.linalg.norm(kernel.reshape(36, 6), ord=2)
    assert stats["sigma"] == pytest.approx(largest, rel=1e-12)


def test_hinge_losses_are_the_oracles():
    real, fake = exact(np.random.default_rng(2).normal(size=(2, 64)) * 2)
    hinge = losses.LOSSES["hinge"]
    assert_close(
        hinge.discriminator(*float32((real, fake))), oracle.hinge_d(real, fake)
    )
    assert_close(hinge.generator(float32(fake)), oracle.hinge_g(fake))


@pytest.mark.parametrize("betas", [(0.0, 0.999), (0.5, 0.9)], ids=str)
def test_adam_of_the_config_is_the_oracles(betas):
    config = make({"optim.betas": betas, "optim.g_lr": 0.1, "optim.d_lr": 0.2})
    game, rng = make_game(config), np.random.default_rng(2)
    params = {"w": exact(rng.normal(size=20))}
    for tx, lr in ((game.g_tx, 0.1), (game.d_tx, 0.2)):
        zero = {"w": np.zeros(20)}
        player = {"params": params, "mu": zero, "nu": zero, "count": 0}
        moved, opt_state = float32(params), tx.init(float32(params))
        for _ in range(3):
            grads = {"w": exact(rng.normal(size=20))}
            updates, opt_state = tx.update(float32(grads), opt_state, moved)
            moved = optax.apply_updates(moved, updates)
            player = oracle.adam(player, grads, lr, recipe(config))
        assert_close(moved, player["params"])


class Setting:
    """The same random state in the middle of training, for JAX and for the oracle."""

    def __init__(self, rule):
        self.config = make(TINY | RULES[rule])
        self.recipe = recipe(self.config)
        self.game = make_game(self.config)
        rng = np.random.default_rng(34)
        g, d = (self.player(tree, rng) for tree in shapes(self.config))
        self.players = {"g": g, "d": d}
        self.state = GANState(
            step=jnp.asarray(7),
            g=self.flax_player(g, self.game.g_tx),
            d=self.flax_player(d, self.game.d_tx),
            ema=(),
            rollbacks=jnp.asarray(0),
        )

    @staticmethod
    def player(tree, rng):
        params, stats = split(fill(tree, rng))
        mu = oracle.tree_map(lambda p: exact(MOMENT * rng.normal(size=p.shape)), params)
        nu = oracle.tree_map(lambda p: exact(1e-4 * rng.uniform(1, 4, p.shape)), params)
        return {"params": params, "stats": stats, "mu": mu, "nu": nu, "count": 3}

    @staticmethod
    def flax_player(player, tx):
        def fill_in(part):
            if not hasattr(part, "mu"):
                return part
            moments = {name: float32(player[name]) for name in ("mu", "nu")}
            return part._replace(count=jnp.asarray(player["count"]), **moments)

        params, stats = float32(player["params"]), float32(player["stats"])
        opt_state = jax.tree.map(
            fill_in, tx.init(params), is_leaf=lambda part: hasattr(part, "mu")
        )
        return Player(params=params, stats=stats, opt_state=opt_state)

    def draw(self, purpose):
        z, y = draw_latents(self.game, self.state.step, purpose, N)
        return np.asarray(z, np.float64), np.asarray(y)


def assert_same_player(actual, wanted, before):
    (adam,) = (part for part in actual.opt_state if hasattr(part, "mu"))
    assert int(adam.count) == wanted["count"]
    # floors: gamma is one number, in which terms may cancel
    assert_close(adam.mu, wanted["mu"], floor=MOMENT)
    assert_close(adam.nu, wanted["nu"], rtol=2 * ROUNDING)

    def movement(params):
        return oracle.tree_map(lambda a, b: np.float64(a) - b, params, before["params"])

    moved, wanted_moved = movement(actual.params), movement(wanted["params"])
    assert_close(moved, wanted_moved, rtol=1e-4, floor=0.01)
    assert_close(actual.stats, wanted["stats"])


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@each_rule
def test_whole_d_step_is_the_oracles(rule):
    here = Setting(rule)
    g, d = here.players["g"], here.players["d"]
    x, (z, fake_y) = images(here.config, 3), here.draw(1)
    step = quick_jit(functools.partial(d_step, here.game, purpose=1))
    after, update = step(here.state, float32(x), jnp.asarray(Y))
    wanted_g, wanted_d, real, fake = oracle.d_step(
        g, d, x, Y, z, fake_y, recipe=here.recipe
    )
    assert on_both_sides(real, fake)
    assert_close(update.averages["d_loss"], oracle.hinge_d(real, fake))
    assert_same_player(after.d, wanted_d, d)
    assert_close(after.g.stats, wanted_g["stats"])
    still = after.replace(d=here.state.d, g=after.g.replace(stats=here.state.g.stats))
    assert_equal(still, here.state)


@each_rule
def test_whole_g_step_is_the_oracles(rule):
    here = Setting(rule)
    z, y = here.draw(G_UPDATE)
    step = quick_jit(functools.partial(g_step, here.game, n=N))
    after, update = step(here.state)
    g, d, fake = oracle.g_step(**here.players, z=z, fake_y=y, recipe=here.recipe)
    assert_close(update.averages["g_loss"], oracle.hinge_g(fake))
    assert_same_player(after.g, g, here.players["g"])
    assert_close(after.d.stats, d["stats"])
    still = after.d.replace(stats=here.state.d.stats)
    assert_equal(after.replace(g=here.state.g, d=still), here.state)
