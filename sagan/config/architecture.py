"""The blocks of both networks: resolutions and channels."""

import dataclasses
import math
from collections.abc import Collection
from typing import NamedTuple

from sagan.config.schema import Config, ConfigError, GeneratorConfig


class Block(NamedTuple):
    """One residual block.

    Attributes:
      channels: Number of output channels.
      resolution: Height and width of the output, in pixels.
      resampled: Whether the block doubles (G) or halves (D) the resolution.
      slot: Whether the block named in g.block or d.block, attention say, follows.
    """

    channels: int
    resolution: int
    resampled: bool
    slot: bool


def base_and_doublings(size: int) -> tuple[int, int]:
    """Writes size as base * 2^k with base 4 to 7 (3 * 2^k counts as 6 * 2^(k-1)).

    Raises:
      ConfigError: There is no such pair.
    """
    base, k = size, 0
    while base > 7 and base % 2 == 0:
        base, k = base // 2, k + 1
    if not (4 <= base <= 7 and k >= 1):
        raise ConfigError(
            f"data.size = {size}: must be base * 2^k with base 4 to 7 and k >= 1,"
            " such as 16, 32, 48, 64, 96, 128, 224 or 256"
        )
    return base, k


def generator_stem(config: Config) -> tuple[int, int]:
    """Channels and resolution of the first linear layer's output."""
    base, doublings = base_and_doublings(config.data.size)
    official = min(2**doublings, 16)
    return config.g.width * (config.g.multipliers or (official,))[0], base


def generator_blocks(config: Config) -> tuple[Block, ...]:
    """Blocks of the generator, from coarse to fine.

    The official 128 px generator has 16, 16, 8, 4, 2, 1 times `width` channels,
    linear layer included; other sizes keep the tail and its ceiling of 16.

    Source: official generator.py:199-212; StudioGAN's 64 px layout.
    """
    base, doublings = base_and_doublings(config.data.size)
    official = tuple(min(2**i, 16) for i in range(doublings, -1, -1))
    multipliers = config.g.multipliers or official
    if len(multipliers) != doublings + 1:
        raise ConfigError(
            f"g.multipliers = {multipliers}: data.size = {config.data.size} needs"
            f" {doublings + 1}, one for the linear layer and one for each block"
        )
    resolutions = [base * 2 ** (i + 1) for i in range(doublings)]
    _check_slots("g", config, resolutions)
    return tuple(
        Block(config.g.width * m, r, True, r in config.g.attention)
        for m, r in zip(multipliers[1:], resolutions, strict=True)
    )


def discriminator_blocks(config: Config) -> tuple[Block, ...]:
    """Blocks of the discriminator, from fine to coarse; the last keep the size.

    The official 128 px discriminator has 1, 2, 4, 8, 16 times `width` channels in
    the blocks that halve, then 16 in one that does not.

    Source: official discriminator.py:187-196; StudioGAN's 64 and 32 px layouts.
    """
    _, doublings = base_and_doublings(config.data.size)
    down = doublings if config.d.down is None else config.d.down
    multipliers = config.d.multipliers or tuple(min(2**i, 16) for i in range(down + 1))
    most = min(doublings, len(config.d.multipliers) or doublings)
    if not 1 <= down <= most:
        raise ConfigError(f"d.down = {down}: must be 1 to {most}")
    resolutions = [
        config.data.size // 2 ** min(i + 1, down) for i in range(len(multipliers))
    ]
    _check_slots("d", config, resolutions)
    return tuple(
        # the slot is after the first of several blocks with one resolution
        Block(config.d.width * m, r, i < down, i < down and r in config.d.attention)
        for i, (m, r) in enumerate(zip(multipliers, resolutions, strict=True))
    )


def fit_attention(config: Config, named: Collection[str] = ()) -> Config:
    """A copy with attention at a quarter of the size, if the default has no place.

    The default is official: 32, a quarter of 128. It stays wherever blocks of both
    networks end at 32. `named` has the fields that the user has set.
    """
    size, official = config.data.size, GeneratorConfig.attention
    try:
        plain = {
            player: dataclasses.replace(getattr(config, player), attention=())
            for player in "gd"
        }
        bare = dataclasses.replace(config, **plain)
        blocks = {"g": generator_blocks(bare), "d": discriminator_blocks(bare)}
    except ConfigError:  # check_config names it
        return config
    ends = {p: [b.resolution for b in blocks[p] if b.resampled] for p in blocks}
    if all(set(official) <= {*there} for there in ends.values()):
        return config
    middle = _nearest(ends["g"], size / 4)
    changes = {
        player: dataclasses.replace(net, attention=(_nearest(ends[player], middle),))
        for player, net in (("g", config.g), ("d", config.d))
        if net.attention == official and f"{player}.attention" not in named
    }
    return dataclasses.replace(config, **changes)


def _nearest(resolutions: Collection[int], wanted: float | int) -> int:
    """The resolution with the smallest ratio to another; of two, the larger."""
    return min(resolutions, key=lambda r: (abs(math.log2(r / wanted)), -r))


def _check_slots(player: str, config: Config, occurring: list[int]) -> None:
    net = config.g if player == "g" else config.d
    chunks = config.model.attention_chunks
    for resolution in net.attention:
        if resolution not in occurring:
            known = ", ".join(map(str, sorted(set(occurring))))
            near = {
                _nearest(occurring, r) if r > 0 else occurring[0] for r in net.attention
            }
            raise ConfigError(
                f"{player}.attention = {resolution}: no block ends at this resolution;"
                f" there are {known}: try --{player}.attention"
                f" {' '.join(map(str, sorted(near)))}"
            )
        if net.block == "attention" and chunks > 1 and resolution**2 % chunks:
            raise ConfigError(
                f"model.attention_chunks = {chunks}: must divide the {resolution**2}"
                f" positions of {player}.attention = {resolution}"
            )
