"""The config, the game and the data of a start: built once, then handed on."""

from collections.abc import Sequence
from typing import NamedTuple

from sagan.config.schema import Config
from sagan.data.pipeline import open_source, resolve
from sagan.data.source import Source
from sagan.state import Game, make_game


class Experiment(NamedTuple):
    """One experiment, complete.

    Attributes:
      config: The config; data.classes is a number.
      game: The networks, the loss and the optimizers.
      source: The training images.
    """

    config: Config
    game: Game
    source: Source


def open_experiment(config: Config, known: Sequence[str] | None = None) -> Experiment:
    """Opens the data of a config, checked, and builds the rest from both.

    Args:
      config: The experiment.
      known: Names of the classes that a run has; None: it is new.

    Raises:
      ConfigError: A name is unknown, or the data cannot be trained on.
    """
    source = open_source(config, known=known)
    config = resolve(config, source)
    return Experiment(config, make_game(config), source)
