"""Draws the figure of long_range.py: samples, learning curves, attention maps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import far_hues
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure, SubFigure

from sagan.sampling.layout import Panel, Sheet

SHOWN, COLUMNS = 24, 12
LOOKED = 6  # number of images whose attention is drawn, over all seeds
COLOURS = ("tab:red", "tab:blue", "tab:gray")


def save(
    path: Path,
    samples: Mapping[str, np.ndarray],
    curves: Mapping[str, list[list[tuple[int, float]]]],
    attention: Mapping[int, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Draws everything into one file.

    Args:
      path: Path of the file.
      samples: Images by the title of their strip.
      curves: Steps and shares for each seed, by block.
      attention: Images and betas, [n, query row, query column, key row, key column],
        by seed.
    """
    figure = plt.figure(figsize=(9, 8), dpi=100, layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    top, bottom = halves
    left, right = top.subfigures(1, 2, width_ratios=[1.3, 1])
    _strips(left, samples)
    _curves(right, curves)
    _maps(bottom, attention)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _strips(figure: SubFigure, samples: Mapping[str, np.ndarray]) -> None:
    axes: Any = figure.subplots(len(samples), 1)
    for axis, (title, image) in zip(axes, samples.items(), strict=True):
        tiles = image[:SHOWN].reshape(-1, COLUMNS, *image.shape[1:])
        axis.imshow(Sheet([Panel("", tiles)], "").picture)
        axis.set_title(title, fontsize=8)
        axis.axis("off")


def _curves(
    figure: SubFigure, curves: Mapping[str, list[list[tuple[int, float]]]]
) -> None:
    axis = figure.subplots()
    for colour, (block, runs) in zip(COLOURS, curves.items(), strict=True):
        for number, points in enumerate(runs):
            label = None if number else block
            values = np.array(points).reshape(-1, 2).T
            axis.plot(*values, ".-", color=colour, label=label, linewidth=1)
    axis.axhline(far_hues.CHANCE, color="black", linestyle=":", label="chance")
    axis.set(xlabel="step", ylim=(0, 1))
    axis.set_title("share of samples whose hues agree, each seed", fontsize=8)
    axis.legend(fontsize=8)


def _maps(
    figure: SubFigure | Figure, attention: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> None:
    columns = [
        (seed, image, beta)
        for seed, read in attention.items()
        for image, beta in list(zip(*read, strict=True))[: LOOKED // len(attention)]
    ]
    queries = columns[0][2].shape[0]
    pixels = far_hues.SIZE // queries
    middles = np.array([*far_hues.PLACES.values()]) + far_hues.PLACE // 2
    chosen = {
        f"query in {name}": tuple(middle // pixels)
        for name, middle in zip(far_hues.PLACES, middles, strict=True)
    }
    highest = max(beta[at].max() for _, _, beta in columns for at in chosen.values())
    axes: Any = figure.subplots(1 + len(chosen), len(columns))
    extent = (0, far_hues.SIZE, far_hues.SIZE, 0)
    for column, (seed, image, beta) in enumerate(columns):
        axes[0, column].imshow(image, extent=extent)
        axes[0, column].set_title(f"seed {seed}", fontsize=8)
        for row, (y, x) in enumerate(chosen.values(), start=1):
            axes[row, column].imshow(beta[y, x], extent=extent, vmin=0, vmax=highest)
            for axis in (axes[0, column], axes[row, column]):
                spot = [(v + 0.5) * pixels for v in (x, y)]
                axis.plot(*spot, "o", color="red", markersize=4, markeredgecolor="w")
    for row, text in enumerate(("sample", *chosen)):
        axes[row, 0].set_ylabel(text, fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.suptitle(
        f"attention of the generator: mass by key, 0 to {highest:.2f}", fontsize=8
    )
