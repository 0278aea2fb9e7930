"""Networks whose attention is known: weights that make position i look at position j.

In the generator the bias of the linear layer writes a code into each of 4x4 cells,
which the shortcut alone carries to 8x8 positions. The channels are the cell's own code,
the code of the cell that it looks for, and nothing, but for z in the last one of one
cell. f reads the first, g the second, and codes are points on a circle, so that beta is
1 there and 0 elsewhere.

The discriminator's f reads the image's brightness and its g a constant: every position
looks at the brightest key.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sagan.state import abstract

SIDE = 4  # cells along each side of the generator's image of 8x8 pixels
RADIUS = 20.0  # of the circle: scores differ by 30 at least
CONFIG = {"g__width": 16, "g__multipliers": (1, 1), "d__width": 8}


def codes():
    angle = 2 * np.pi * np.arange(SIDE**2) / SIDE**2
    return RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def columns(rows, count, start=0):
    """A matrix [rows, count] that picks channels: its singular values are 1."""
    return np.eye(rows, count, k=-start, dtype=np.float32)


def state(config, looks_at, gamma=1.0):
    """A state whose generator's cell i looks at cell looks_at[i], raw and averaged."""
    rng = np.random.default_rng(0)
    made = jax.tree.map(
        lambda leaf: rng.random(leaf.shape).astype(leaf.dtype), abstract(config)
    )
    g, d = made.g.params, made.d.params
    cells = np.zeros((SIDE**2, 16), np.float32)
    cells[:, :2], cells[:, 2:4] = codes(), codes()[np.asarray(looks_at)]
    g["stem"]["kernel"][:] = 0  # but for what z adds to a channel of one cell
    g["stem"]["kernel"][0, 15] = 1
    g["stem"]["bias"] = cells.ravel()
    block = g["block1"]
    block["shortcut"]["kernel"] = columns(16, 16)[None, None]
    for layer, name in (("bn2", "scale"), ("bn2", "bias"), ("conv2", "bias")):
        block[layer][name][:] = 0  # the other way through the block
    block["shortcut"]["bias"][:] = 0
    for name, value in {"scale": 0.05, "bias": 0}.items():
        g["bn_out"][name][:] = value
    for moments in [made.g.stats["batch_stats"], *(a.batch_stats for a in made.ema)]:
        moments["bn_out"]["mean"][:], moments["bn_out"]["var"][:] = 0, 1
    g["out"]["kernel"][:] = 0  # the image shows both codes, what is drawn, and z
    g["out"]["kernel"][1, 1, [0, 2, 8, 10, 15]] = 1
    g["out"]["bias"][:] = -0.5
    attention = g["attention8"]
    attention["f"]["kernel"] = columns(16, 2)[None, None]
    attention["g"]["kernel"] = columns(16, 2, start=2)[None, None]
    attention["h"]["kernel"] = columns(16, 8)[None, None]
    attention["v"]["kernel"] = columns(16, 8, start=8).T[None, None]
    attention["gamma"] = np.float32(gamma)

    block = d["block1"]
    block["shortcut"]["kernel"] = columns(8, 1).T[None, None]
    block["shortcut"]["bias"][:] = 0
    block["conv1"]["bias"][:] = -1e6  # the ReLU behind it gives 0
    block["conv2"]["bias"][:] = 0
    block["conv2"]["bias"][1] = 50
    d["attention4"]["f"]["kernel"] = columns(8, 1)[None, None]
    d["attention4"]["g"]["kernel"] = columns(8, 1, start=1)[None, None]

    averages = tuple(dataclasses.replace(a, params=g) for a in made.ema)
    done = dataclasses.replace(made, ema=averages, step=np.int32(7))
    return jax.tree.map(jnp.asarray, done)
