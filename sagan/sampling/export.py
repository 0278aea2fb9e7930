"""Samples of a checkpoint as files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from sagan.checkpoints.restore import labels_to_draw, open_run
from sagan.checkpoints.workdir import class_names, read_config
from sagan.config.schema import ConfigError
from sagan.runtime.files import make_place, naming_file, write_arrays, write_whole
from sagan.sampling import sampler
from sagan.sampling.grid import class_titles, image_grid, png

_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_FILES = (".npz", *_PICTURES)
_MOST = 400  # images in a grid


def export(
    *,
    workdir: Path,
    n: int,
    classes: Sequence[int] | None,
    seed: int,
    truncation: float,
    step: int | str | None,
    weights: str | None,
    batch: int | None,
    batch_norm: str,
    out: Path | None,
) -> str:
    """Writes n images of a checkpoint and a grid; returns a line that says where.

    PNGs are named by number and label, with all of them in `grid.png`; an .npz file
    holds `image` [n h w c] uint8 and `label` [n] int32; a .png or .jpg file is the
    grid, or a single image as it is.

    By default all classes are drawn, into a folder of the workdir. See sampler.samples
    for truncation and batch, restore.open_run for step and weights. `batch_norm` is
    moving, standing or batch, as in an evaluation, whose batches have data.batch
    images: so many are the default with `batch`, and 64 otherwise.

    Raises:
      ConfigError: There is no such run, checkpoint, class or average, or `out` is a
        file of another kind.
    """
    _check(n, truncation, out)
    labels = labels_to_draw(read_config(workdir), n, classes)
    opened = open_run(workdir, step, weights)
    out = out or workdir / "samples" / f"step_{opened.step}"
    make_place(out, is_file=out.suffix.lower() in _FILES)
    variables = opened.variables
    if batch_norm == "standing":
        standing = sampler.make_standing(opened.config)
        variables = standing(variables, seed, truncation)
    by_batch = batch_norm == "batch"
    if by_batch:
        batch = batch or opened.config.data.batch
    else:
        batch = min(batch or 64, n)
    pieces = sampler.samples(
        opened.config,
        variables,
        labels,
        seed=seed,
        truncation=truncation,
        batch=batch,
        sampler=sampler.make_sampler(opened.config, batch_statistics=by_batch),
    )
    steps = -(-n // batch)
    images = list(tqdm(pieces, total=steps, disable=None, unit="batch"))
    titles = class_titles(opened.config.data.classes, class_names(workdir))
    _write(out, np.concatenate(images), labels, titles)
    return f"{n} images of {opened.words}: {out}"


def _check(n: int, truncation: float, out: Path | None) -> None:
    """Raises ConfigError for a wrong threshold, or a file of another kind."""
    if truncation < 0:
        raise ConfigError(f"--truncation {truncation}: must be 0 or more")
    suffix = out.suffix.lower() if out else ""
    if suffix in Image.registered_extensions().keys() - _FILES:
        raise ConfigError(
            f"--out {out}: must be a folder, or end in {', '.join(_FILES)}"
        )
    if suffix in _PICTURES and n > _MOST:
        raise ConfigError(
            f"--n {n}: a picture shows {_MOST} images at most; a folder or an .npz file"
            " takes any number"
        )


def _write(
    out: Path, images: np.ndarray, labels: np.ndarray, titles: Sequence[str]
) -> None:
    suffix = out.suffix.lower()
    if suffix == ".npz":
        write_arrays(out, {"image": images, "label": labels}, compressed=True)
        return
    grid = image_grid(images[:_MOST], labels[:_MOST], titles)
    if format := _PICTURES.get(suffix):
        write_whole(out, png(images[0] if len(images) == 1 else grid, format))
        return
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        _save(out / f"{i:06d}_class{label}.png", image)
    _save(out / "grid.png", grid)


def _save(path: Path, image: np.ndarray) -> None:
    with naming_file(path):  # not write_whole, which waits for the disk at every file
        path.write_bytes(png(image))
