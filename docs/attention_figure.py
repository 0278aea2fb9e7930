"""Draws attention.png: how f and g decide where attention goes.

python docs/attention_figure.py

Uses one photograph, eight features per position, and three hand-made pairs of f and g.
All maps and every beta are computed by `sagan.attention.SelfAttention`.
"""

import io
import pathlib

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from sagan.attention import SelfAttention, max_pool
from sagan.config import ModelConfig

SIZE = 64  # 4096 queries, 1024 keys
STRENGTH = 2.4  # how large x is: f and g are normalised and cannot sharpen beta
PETAL, LEAF = (35, 21), (24, 4)  # row and column of the two queries
MARK = {"marker": "o", "markersize": 8, "color": "cyan", "markeredgecolor": "black"}

# x: red, green, blue; their means over 5x5; horizontal and vertical edges
ORANGE = np.array([[1, 0, -1, 1, 0, -1, 0, 0]]).T / 2
GREEN = np.array([[-1, 2, -1, -1, 2, -1, 0, 0]]).T / np.sqrt(12)
EDGES = np.array([[0, 0, 0, 0, 0, 0, 1, 1]]).T / np.sqrt(2)
BRIGHT = np.array([[1, 1, 1, 1, 1, 1, 0, 0]]).T / np.sqrt(6)
VALUES = np.concatenate([BRIGHT, ORANGE, GREEN, EDGES], axis=1)
COLOURS = np.concatenate([ORANGE, GREEN], axis=1)
ROWS = {  # label: W_f, W_g
    "scaled copies: f = g = x\n(8 channels)": (np.eye(8), np.eye(8)),
    "like looks at like: f and g are\ntwo colour differences": (COLOURS, COLOURS),
    "two roles: f tells edges,\ng tells orange": (EDGES, ORANGE),
}
TITLES = ["the input, two queries j", "queries g(x)", "keys f(x), pooled"]
TITLES += ["beta[j], j on a petal", "beta[j], j on a leaf"]
TITLES += ["x: 8 features of it", "values h(x), pooled"]


def load() -> tuple[np.ndarray, np.ndarray]:
    """A square photograph [h, w, 3] in [0, 1] and its features x [1, h, w, 8]."""
    photo = Image.fromarray(load_sample_image("flower.jpg")).crop((96, 0, 523, 427))
    rgb = np.asarray(photo.resize((SIZE, SIZE), Image.Resampling.BOX)) / 255
    padded = np.pad(rgb, ((2, 2), (2, 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(0, 1))
    down, along = np.gradient(rgb.mean(-1))
    edges = 4 * np.abs(np.stack([along, down], axis=-1))  # about as large as colours
    x = np.concatenate([rgb, windows.mean((-2, -1)), edges], axis=-1)
    return rgb, (STRENGTH * x[None]).astype(np.float32)


def attend(x: np.ndarray, w_f: np.ndarray, w_g: np.ndarray) -> dict[str, np.ndarray]:
    """The module's g(x), pooled f(x) and h(x), and beta, for the given kernels."""
    params, spectral = {"gamma": np.zeros(())}, {}
    for name, w in zip("fghv", (w_f, w_g, VALUES, VALUES.T), strict=True):
        u = np.linalg.svd(w)[2][:1]  # so that one power iteration finds sigma
        params[name] = {"kernel": w[None, None].astype(np.float32)}
        spectral[name] = {"u": u.astype(np.float32), "sigma": np.ones(())}
    module = SelfAttention(ModelConfig(), reduction=x.shape[-1] // w_f.shape[1])
    variables = {"params": params, "spectral": spectral}
    read = {"capture_intermediates": True, "mutable": ["intermediates"]}
    y, sown = module.apply(variables, jnp.asarray(x), **read)
    np.testing.assert_array_equal(y, x)  # gamma is 0
    maps = sown["intermediates"]
    out = {name: maps[name]["__call__"][0] for name in "gfh"}
    out |= {"f": max_pool(out["f"]), "h": max_pool(out["h"]), "beta": maps["beta"][0]}
    return {name: np.asarray(value[0]) for name, value in out.items()}


def show_channels(ax: plt.Axes, maps: np.ndarray) -> None:
    """Draws the channels of [h, w, c] as tiles: red above zero, blue below."""
    side = int(np.ceil(np.sqrt(maps.shape[-1])))
    empty = np.full((*maps.shape[:2], -maps.shape[-1] % side), np.nan)
    tiles = np.moveaxis(np.concatenate([maps, empty], axis=-1), -1, 0)
    tiles = np.pad(tiles, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    rows = [np.concatenate(row, 1) for row in tiles.reshape(-1, side, *tiles.shape[1:])]
    most = np.abs(maps).max()
    ax.imshow(np.concatenate(rows), cmap="RdBu_r", vmin=-most, vmax=most)


def show_beta(ax: plt.Axes, beta: np.ndarray, at: tuple[int, int], flower) -> None:
    """Draws position `at`'s row of beta, and its share on the flowers."""
    row = beta[at[0] * SIZE + at[1]].reshape(SIZE // 2, SIZE // 2)
    ax.imshow(row, cmap="magma", vmin=0, extent=(0, SIZE, SIZE, 0))
    ax.contour(flower, [0.5], colors="w", linewidths=0.6, extent=(0, SIZE, 0, SIZE))
    ax.plot(at[1] + 0.5, at[0] + 0.5, **MARK)
    share = row[max_pool(flower[None, :, :, None])[0, :, :, 0] > 0].sum()
    ax.set_xlabel(f"{share:.0%} on the flowers; largest {row.max():.1%}", fontsize=9)


def main() -> None:
    """Writes attention.png next to this file."""
    plt.rc("image", interpolation="nearest")
    rgb, x = load()
    flower = (rgb[..., 0] > rgb[..., 2] + 0.25).astype(np.float32)
    figure, axes = plt.subplots(3, 5, figsize=(12, 7.9), layout="constrained")
    plt.setp(axes.flat, xticks=[], yticks=[])
    for row, (label, kernels) in zip(axes, ROWS.items(), strict=True):
        maps = attend(x, *kernels)
        show_channels(row[1], maps["g"])
        show_channels(row[2], maps["f"])
        show_beta(row[3], maps["beta"], PETAL, flower)
        show_beta(row[4], maps["beta"], LEAF, flower)
        row[1].set_ylabel(label)
    axes[0, 0].imshow(rgb, extent=(0, SIZE, SIZE, 0))
    axes[0, 0].plot(*np.add([PETAL, LEAF], 0.5).T[::-1], linestyle="", **MARK)
    show_channels(axes[1, 0], x[0])
    show_channels(axes[2, 0], maps["h"])
    for ax, title in zip([*axes[0], *axes[1:, 0]], TITLES, strict=True):
        ax.set_title(title)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, bbox_inches="tight")
    small = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(pathlib.Path(__file__).with_name("attention.png"), optimize=True)


if __name__ == "__main__":
    main()
