"""The picture of long_range.py: samples, learning curves, what attention looks at."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import far_hues
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure, SubFigure

from sagan.writer import grid

SHOWN, COLUMNS = 24, 12
LOOKED = 6  # images whose attention is drawn
COLOURS = ("tab:red", "tab:blue", "tab:gray")


def save(
    path: Path,
    samples: Mapping[str, np.ndarray],
    curves: Mapping[str, list[list[tuple[int, float]]]],
    images: np.ndarray,
    betas: np.ndarray,
) -> None:
    """Draws everything into one file.

    Args:
      path: of the file.
      samples: images by the title of their strip.
      curves: of each block, for each seed, steps and shares.
      images: of which attention was read.
      betas: [n, query row, query column, key row, key column].
    """
    figure = plt.figure(figsize=(9, 8), dpi=100, layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    top, bottom = halves
    left, right = top.subfigures(1, 2, width_ratios=[1.3, 1])
    _strips(left, samples)
    _curves(right, curves)
    _maps(bottom, images, betas)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _strips(figure: SubFigure, samples: Mapping[str, np.ndarray]) -> None:
    axes: Any = figure.subplots(len(samples), 1)
    for axis, (title, image) in zip(axes, samples.items(), strict=True):
        axis.imshow(grid(image[:SHOWN], COLUMNS))
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


def _maps(figure: SubFigure | Figure, images: np.ndarray, betas: np.ndarray) -> None:
    middle = {
        name: (top + far_hues.PLACE // 2, left + far_hues.PLACE // 2)
        for name, (top, left) in far_hues.PLACES.items()
    }
    axes: Any = figure.subplots(3, LOOKED)
    extent = (0, far_hues.SIZE, far_hues.SIZE, 0)
    pixels = far_hues.SIZE // betas.shape[1]
    highest = betas[:LOOKED].max()
    for column, image in enumerate(images[:LOOKED]):
        axes[0, column].imshow(image, extent=extent)
        for row, (y, x) in enumerate(middle.values(), start=1):
            beta = betas[column, y // pixels, x // pixels]
            axes[row, column].imshow(beta, extent=extent, vmin=0, vmax=highest)
            for axis in (axes[0, column], axes[row, column]):
                # in the middle of the query's position
                spot = [v // pixels * pixels + pixels / 2 for v in (x, y)]
                axis.plot(*spot, "o", color="red", markersize=4, markeredgecolor="w")
    for row, text in enumerate(("sample", *(f"query in {name}" for name in middle))):
        axes[row, 0].set_ylabel(text, fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.suptitle(
        f"attention of the generator, seed 0: mass by key, 0 to {highest:.2f}",
        fontsize=8,
    )
