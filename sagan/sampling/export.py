"""Checkpoints of a run for others than the run; samples of one as files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from sagan.checkpoints.restore import labels_to_draw, open_run
from sagan.checkpoints.workdir import read_config
from sagan.config.schema import ConfigError
from sagan.runtime.files import naming
from sagan.sampling import sampler
from sagan.sampling.grid import grid


def export(
    *,
    workdir: Path,
    n: int,
    classes: Sequence[int] | None,
    seed: int,
    truncation: float,
    step: int | None,
    weights: str | None,
    batch: int,
    out: Path | None,
) -> str:
    """Writes n images of a checkpoint, and a grid; returns what was written where.

    PNGs are named by number and label, with all of them in `grid.png`; an .npz file
    holds `image` [n h w c] uint8 and `label` [n] int32.

    Args:
      workdir: of the run.
      n: images.
      classes: labels to draw in turn; None: all.
      seed: of the latents.
      truncation: see sampler.latents.
      step: of the checkpoint; None: the newest good one.
      weights: "raw", "ema" (the first average) or the decay of one; None: the first
        average if there is one.
      batch: images generated at once.
      out: a folder or a file.npz; None: a folder of the workdir.

    Raises:
      ConfigError: there is no such run, checkpoint, class or average.
    """
    if truncation < 0:
        raise ConfigError(f"--truncation {truncation}: must be 0 or more")
    labels = labels_to_draw(read_config(workdir), n, classes)
    opened = open_run(workdir, step, weights)
    pieces = sampler.samples(
        opened.config,
        opened.variables,
        labels,
        seed=seed,
        truncation=truncation,
        batch=min(batch, n),
    )
    with tqdm(total=n, disable=None, unit="image") as bar:
        images = []
        for piece in pieces:
            images.append(piece)
            bar.update(len(piece))
    out = out or workdir / "samples" / f"step_{opened.step}"
    _write(out, np.concatenate(images), labels)
    return f"{n} images of {opened.words}: {out}"


def _write(out: Path, images: np.ndarray, labels: np.ndarray) -> None:
    if out.suffix == ".npz":
        out.parent.mkdir(parents=True, exist_ok=True)
        with naming(out):
            np.savez_compressed(out, image=images, label=labels)
        return
    out.mkdir(parents=True, exist_ok=True)

    def save(name: str, picture: np.ndarray) -> None:
        grey = picture.shape[-1] == 1
        with naming(out / name):
            Image.fromarray(picture[..., 0] if grey else picture).save(out / name)

    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        save(f"{i:06d}_class{label}.png", image)
    shown = images[:400]
    save("grid.png", grid(shown, int(np.ceil(np.sqrt(len(shown))))))
