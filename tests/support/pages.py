"""A page about a run that was never trained, with rows of beta that a test chose."""

import base64
import types

import numpy as np

from sagan.checkpoints.restore import OpenedRun, SavedRun
from sagan.config import Config, replace
from sagan.sampling.attention_maps import AttentionGrid, LayerAttention
from sagan.visualization import explorer
from sagan.visualization.explorer import Explorer
from sagan.visualization.report_page import ReportedRun
from sagan.visualization.run_record import RunRecord


def config(**changes):
    values = {"data.name": "digits", "data.size": 16, "data.channels": 1}
    values |= {"data.classes": 2, "g.attention": (8,), "d.attention": (8,)}
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return replace(Config(), {**values, **named})


def focused(grid, keys, share=0.75):
    """Rows that look at one key each, and at all others alike."""
    count = grid.keys**2
    beta = np.full((grid.queries**2, count), (1 - share) / (count - 1), np.float32)
    beta[np.arange(len(beta)), keys] = share
    return beta


def scattered(grid, seed=0):
    """Rows of a softmax of normal numbers."""
    rng = np.random.default_rng(seed)
    scores = np.exp(2 * rng.standard_normal((grid.queries**2, grid.keys**2)))
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def explorer_of(layers, labels=("0", "1"), player="g", logit=None):
    """An explorer of images with equal attention; layers: (name, grid, beta)."""
    size = layers[0][1].size
    pixels = np.full((size, size, 1), 128, np.uint8)
    pixels[::2] = 200
    packed = [
        explorer.pack_layer(LayerAttention(b, np.float32(0.25)), grid)
        for _, grid, b in layers
    ]
    facts = [explorer.layer_facts(name, grid, -0.5) for name, grid, _ in layers]
    images = [explorer.image_facts(pixels, label, packed, logit) for label in labels]
    return Explorer(player, facts, images)


def unpack_beta(layer):
    """The shares that explorer.js shows, a row for each embedded query."""
    top = explorer.unpack(layer["top"])
    levels = np.frombuffer(base64.b64decode(layer["beta"]), np.uint8)
    return levels.reshape(len(top), -1).astype(np.float32) / 255 * top[:, None]


def run(tmp_path, explorers=None, name="planted", metrics=(), seed=0, **changes):
    """A ReportedRun, with one planted layer unless explorers are given."""
    player = types.SimpleNamespace(params={"w": np.zeros(3)})
    state = types.SimpleNamespace(g=player, d=player)
    opened = OpenedRun(SavedRun(tmp_path / name, config(**changes)), state, 7, None)
    if explorers is None:
        grid = AttentionGrid(16, 8)
        layers = [("attention8", grid, focused(grid, np.zeros(64, int)))]
        explorers = [explorer_of(layers)]
    record = RunRecord(name, opened.config, list(metrics), [], [], (), [])
    return ReportedRun(opened, seed, record, [], explorers, [])
