"""The architecture of a network, from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sagan.config.schema import ConfigError
from sagan.weights.layouts import LAYOUTS, Layout

Tensors = Mapping[str, np.ndarray]


def player(tensors: Tensors, layout: Layout) -> str | None:
    """Whether a state_dict is this project's generator, "g", or discriminator, "d"."""
    for name, ends in (("g", ("stem", "out")), ("d", ("logit", "embed"))):
        if all(_weight(tensors, layout.names[end]) for end in ends):
            return name
    return None


def owner(tensors: Tensors) -> str | None:
    """The project, a key of LAYOUTS, whose names these are."""
    return next((name for name, its in LAYOUTS.items() if player(tensors, its)), None)


def generator_fields(tensors: Tensors, layout: Layout) -> dict[str, Any]:
    """Fields of the generator with these tensors, by dotted name.

    Raises:
      ConfigError: It has no blocks, or sizes that no config gives.
    """
    names, (channels, slots) = layout.names, _blocks(tensors, layout, d=False)
    stem, z = _shape(tensors, names["stem"])[:2]
    first = _shape(tensors, f"{layout.blocks.format(0)}.{names['conv1']}")[1]
    base = round((stem / first) ** 0.5)
    if base * base * first != stem or not 4 <= base <= 7:
        raise ConfigError(
            f"{names['stem']}: {stem} features of {first} channels are no image of"
            " 4x4 to 7x7: not a SAGAN, whose latents enter once"
        )
    size, width = base * 2 ** len(channels), min(channels)
    table = f"{layout.blocks.format(0)}.{names['bn1']}.{layout.scale_and_bias[0]}"
    if not _weight(tensors, table):
        raise ConfigError(
            f"{table}.weight: is missing; only class-conditional ones fit"
        )
    normalised = any(f"{table}.{name}" in tensors for name in ("weight_u", "u0"))
    classes = _shape(tensors, table)[1 if layout.linear_tables else 0]
    return {
        "data.size": size,
        "data.channels": _shape(tensors, names["out"])[0],
        "data.classes": classes,
        "g.z": z,
        "g.width": width,
        "g.multipliers": _multipliers((first, *channels), width, "g"),
        "g.attention": tuple(
            base * 2 ** (i + 1) for i, slot in enumerate(slots) if slot
        ),
        "g.sn_tables": layout.tables[-1] if normalised else "none",
    }


def discriminator_fields(tensors: Tensors, layout: Layout, size: int) -> dict[str, Any]:
    """Fields of the discriminator with these tensors, for images of a size."""
    channels, slots = _blocks(tensors, layout, d=True)
    learned = sum(
        name.endswith(f".{layout.names['shortcut']}.bias") for name in tensors
    )  # a block that halves has one; those come first
    halvings = 0
    while size % 2 == 0 and size // 2**halvings > 7:
        halvings += 1
    down, width = min(learned, halvings), min(channels)
    return {
        "d.width": width,
        "d.multipliers": _multipliers(channels, width, "d"),
        "d.down": None if down == halvings else down,
        "d.attention": tuple(
            size // 2 ** min(i + 1, down) for i, slot in enumerate(slots) if slot
        ),
    }


def _blocks(
    tensors: Tensors, layout: Layout, *, d: bool
) -> tuple[list[int], list[bool]]:
    """Output channels of each block, and whether attention follows it."""
    gamma, at = layout.attention[-1], 0
    channels: list[int] = []
    slots: list[bool] = []
    while True:
        spot = layout.spot(at, first_of_d=d and not channels)
        conv = f"{spot.block}.{layout.names['conv1']}"
        if not _weight(tensors, conv):
            break
        channels.append(_shape(tensors, conv)[0])
        slots.append(f"{spot.attention}.{gamma}" in tensors)
        at = spot.after_attention if slots[-1] else spot.after
    if not channels:
        raise ConfigError(f"{conv}.weight: is missing: no blocks")
    return channels, slots


def _multipliers(channels: Any, width: int, name: str) -> tuple[int, ...]:
    if any(c % width for c in channels):
        raise ConfigError(
            f"{name.upper()}'s blocks have {', '.join(map(str, channels))} channels:"
            f" not multiples of the narrowest, {width}"
        )
    return tuple(c // width for c in channels)


def _weight(tensors: Tensors, name: str) -> str | None:
    """The name of a layer's weight, normalised or not; None if it is not there."""
    names = f"{name}.weight_orig", f"{name}.weight"
    return next((known for known in names if known in tensors), None)


def _shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    known = _weight(tensors, name)
    shape = tensors[known].shape if known else ()
    if len(shape) < 2 or 0 in shape:
        raise ConfigError(
            f"{name}.weight: must be a matrix or a convolution, not {shape}"
        )
    return shape
