"""The two players and their averages: one PyTree that a step maps to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PyTree

from sagan.augment import check_policy
from sagan.blocks import BLOCKS
from sagan.config.fields import fields
from sagan.config.schema import Config, ConfigError
from sagan.discriminator import Discriminator
from sagan.generator import Generator
from sagan.losses import LOSSES, GANLoss
from sagan.regularisers import Anchors


@struct.dataclass
class Player:
    """One network of the two, with its optimizer.

    Attributes:
      params: The weights that the optimizer moves.
      stats: The collections that a forward pass moves: `spectral` (vectors u and
        sigma; absent without spectral norm) and, in the generator, `batch_stats`
        (running mean and variance).
      opt_state: The optimizer's moments.
    """

    params: PyTree
    stats: dict[str, PyTree]
    opt_state: PyTree


@struct.dataclass
class Average:
    """Moving averages of the generator's weights and batch statistics."""

    params: PyTree
    batch_stats: PyTree


@struct.dataclass
class GANState:
    """Everything that training changes; a checkpoint is this and the Config.

    Attributes:
      step: Number of train steps done, int32.
      g: The generator.
      d: The discriminator.
      ema: One Average for each of config.ema.decays.
      rollbacks: Number of times that training went back to an earlier state, int32.
      lecam: Averages of D's mean logits; None without reg.lecam.
    """

    step: Any  # an array, or its shape in a checkpoint's target
    g: Player
    d: Player
    ema: tuple[Average, ...]
    rollbacks: Any
    lecam: Anchors | None = None


class Game(NamedTuple):
    """Everything that training does not change.

    Attributes:
      config: The experiment's config; data.classes is a number.
      g: The generator's module.
      d: The discriminator's module.
      loss: Both halves of the adversarial loss.
      g_lr: The generator's learning rate, by its own number of updates.
      d_lr: The discriminator's, after all rollbacks.
      g_tx: The generator's optimizer.
      d_tx: The discriminator's optimizer.
      axis_name: Name of the axis over which pmap spreads the batch, or None.
      sharding: Sharding of the batch's first axis under jit, or None.
    """

    config: Config
    g: Generator
    d: Discriminator
    loss: GANLoss
    g_lr: optax.Schedule
    d_lr: optax.Schedule
    g_tx: optax.GradientTransformation
    d_tx: optax.GradientTransformation
    axis_name: str | None = None
    sharding: NamedSharding | None = None


def make_game(config: Config) -> Game:
    """Builds the modules, the loss and the optimizers that a config names.

    Raises:
      ConfigError: A name is unknown, or data.classes is still None.
    """
    check_names(config)
    if config.data.classes is None:
        raise ConfigError("data.classes = None: give the number of classes")
    g_lr, d_lr = (learning_rate(config, player) for player in "gd")
    return Game(
        config=config,
        g=Generator(config),
        d=Discriminator(config),
        loss=LOSSES[config.optim.loss],
        g_lr=g_lr,
        d_lr=d_lr,
        g_tx=_optimizer(config, g_lr),
        d_tx=_optimizer(config, d_lr),
    )


def check_names(config: Config) -> None:
    """Raises ConfigError if a name in the config is in none of our tables."""
    tables = (("optim.loss", LOSSES), ("g.block", BLOCKS), ("d.block", BLOCKS))
    for field, table in tables:
        name = fields(config)[field]
        if name not in table:
            known = ", ".join(table)
            raise ConfigError(f"{field} = {name!r}: unknown; there are {known}")
    check_policy("augment.policy", config.augment.policy)
    check_policy("reg.consistency_policy", config.reg.consistency_policy)


def after_rollbacks(game: Game, rollbacks: int) -> Game:
    """Lowers the discriminator's learning rate as that many rollbacks ask for.

    Each multiplies it by run.rollback_factor.
    """
    if not rollbacks:
        return game
    full, factor = game.d_lr, game.config.run.rollback_factor**rollbacks

    def d_lr(updates: Any) -> Any:
        return factor * full(updates)

    return game._replace(d_lr=d_lr, d_tx=_optimizer(game.config, d_lr))


def learning_rate(config: Config, player: str) -> optax.Schedule:
    """The rate of player "g" or "d" after a number of its own updates."""
    optim = config.optim
    rate, updates = (optim.g_lr, 1) if player == "g" else (optim.d_lr, optim.d_steps)
    if optim.decay_start is None:
        return optax.constant_schedule(rate)
    length = (config.run.steps - optim.decay_start) * updates
    return optax.linear_schedule(rate, 0.0, length, optim.decay_start * updates)


def _optimizer(config: Config, rate: optax.Schedule) -> optax.GradientTransformation:
    optim = config.optim
    b1, b2 = optim.betas
    adam = optax.adam(rate, b1, b2, optim.eps)
    if not optim.clip:
        return adam
    return optax.chain(optax.clip_by_global_norm(optim.clip), adam)


def create(config: Config) -> GANState:
    """The state before the first step, a function of config.run.seed.

    Raises:
      ConfigError: A name is unknown, or data.classes is still None.
    """
    return create_state(make_game(config))


def abstract(config: Config) -> GANState:
    """Shapes and types of the state: what a checkpoint is restored into."""
    return abstract_state(make_game(config))


def create_state(game: Game) -> GANState:
    """The state before the first step, for a game that is already built."""
    return jax.jit(lambda: initial_state(game))()


def abstract_state(game: Game) -> GANState:
    """Shapes and types of the state, for a game that is already built."""
    return jax.eval_shape(lambda: initial_state(game))


def initial_state(game: Game) -> GANState:
    """The state before the first step; traceable, so that eval_shape costs nothing."""
    g_key, d_key = jax.random.split(jax.random.key(game.config.run.seed))
    data = game.config.data
    y = jnp.zeros((1,), jnp.int32)
    z = jnp.zeros((1, game.config.g.z))
    x = jnp.zeros((1, data.size, data.size, data.channels))
    g = _player(dict(game.g.init(g_key, z, y, train=False)), game.g_tx)
    d = _player(dict(game.d.init(d_key, x, y)), game.d_tx)
    ema = tuple(
        Average(params=g.params, batch_stats=g.stats["batch_stats"])
        for _ in game.config.ema.decays
    )
    zero = jnp.zeros((), jnp.int32)
    anchors = Anchors(jnp.zeros(()), jnp.zeros(())) if game.config.reg.lecam else None
    return GANState(step=zero, g=g, d=d, ema=ema, rollbacks=zero, lecam=anchors)


def _player(variables: dict[str, Any], tx: optax.GradientTransformation) -> Player:
    params = variables.pop("params")
    return Player(params=params, stats=variables, opt_state=tx.init(params))


def update_ema(game: Game, state: GANState) -> tuple[Average, ...]:
    """Moves the averages towards the weights and statistics of `state`.

    Until config.ema.start they are copies. Spectral vectors are not averaged: they
    belong to the current weights, and one power iteration renews them.

    Source: BigGAN-PyTorch (decay 0.9999 from a start step); MMGeneration averages the
    batch statistics too. The official code has no average.
    """
    now = Average(params=state.g.params, batch_stats=state.g.stats["batch_stats"])

    def move(average: Average, decay: float) -> Average:
        keep = jnp.where(state.step <= game.config.ema.start, 0.0, decay)
        return jax.tree.map(lambda a, b: keep * a + (1 - keep) * b, average, now)

    return tuple(map(move, state.ema, game.config.ema.decays))


def count(params: PyTree) -> int:
    """Number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def generator_variables(
    state: GANState, average: int | None = None
) -> dict[str, PyTree[Array]]:
    """The generator's collections: raw, or those of the average at an index.

    Averaged weights come with averaged batch statistics, never with the raw network's.
    """
    if average is None:
        return {"params": state.g.params, **state.g.stats}
    chosen = state.ema[average]
    averages = {"params": chosen.params, "batch_stats": chosen.batch_stats}
    return {**state.g.stats, **averages}


def gammas(params: PyTree[Array]) -> dict[str, Float[Array, ""]]:
    """The gate gamma of every attention layer, by layer name."""
    return {
        layer: leaves["gamma"] for layer, leaves in params.items() if "gamma" in leaves
    }


def leaf_paths(tree: PyTree) -> list[str]:
    """The path of every leaf, in order, such as d/params/block1/conv1/kernel."""
    found = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in found]
