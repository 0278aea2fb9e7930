"""benchmarks/sprites.py: the folder that it makes of sprites."""

import collections
import importlib
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from sagan.config import Config, ConfigError, replace
from sagan.data import pipeline

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"
GREY = (128, 128, 128)


@pytest.fixture(scope="module")
def sprites():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("sprites")
    sys.path.remove(str(FOLDER))


def write(path, seed, side=72, box=(20, 20, 52, 52)):
    """A sprite of noise, opaque within a box of left, top, right, bottom."""
    left, top, right, bottom = box
    pixels = np.zeros((side, side, 4), np.uint8)
    shape = (bottom - top, right - left, 3)
    pixels[top:bottom, left:right, :3] = np.random.default_rng(seed).integers(
        0, 255, shape
    )
    pixels[top:bottom, left:right, 3] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels[top:bottom, left:right, :3]


@pytest.fixture
def units(tmp_path):
    """Two races with 8 units of 3 sprites, one of them in a folder of its own."""
    root = tmp_path / "units"
    for race in ("elves", "orcs"):
        for unit in range(8):
            folder = root / race / "mounted" if unit == 7 else root / race
            for frame in ("", "-attack-1", "+female-attack-1"):
                name = f"{race}{unit}{frame}"
                write(folder / f"{name}.png", list(name.encode()))
    return root


def made(root):
    """Relative paths of the images in a split and class, by split."""
    paths = collections.defaultdict(list)
    for path in sorted(root.rglob("*.png")):
        split, *parts = path.relative_to(root).parts
        paths[split].append("/".join(parts))
    return paths


def pixels(path):
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def test_no_unit_is_on_both_sides(sprites, units, tmp_path):
    sprites.make(units, tmp_path / "images", least=20)
    paths = made(tmp_path / "images")
    assert len(paths["train"]) + len(paths["test"]) == 2 * 8 * 3
    names = {
        split: {pathlib.Path(path).stem.split("-")[0].split("+")[0] for path in found}
        for split, found in paths.items()
    }
    assert not names["train"] & names["test"]
    # a sixth of 24 images is one unit of 3, and not two
    assert len(paths["test"]) == 2 * 3


def test_the_split_depends_on_names_only(sprites, units, tmp_path):
    sprites.make(units, tmp_path / "first", least=20)
    sprites.make(units.rename(tmp_path / "moved"), tmp_path / "again", least=20)
    assert made(tmp_path / "first") == made(tmp_path / "again")
    few, many = {"a": 1, "b": 1, "c": 1}, {"a": 10, "b": 40, "c": 50}
    assert sprites.held_out("elves", few) < set(few)
    assert sprites.held_out("elves", many) == {"a"}  # the only one that is small enough


def test_duplicates_and_other_images_are_left_out(sprites, units, tmp_path, capsys):
    write(units / "elves" / "copy.png", list(b"elves3"))
    write(units / "elves" / "large.png", 1, side=100)
    write(units / "elves" / "spark.png", 2, box=(30, 30, 50, 50))
    write(units / "ogres" / "ogre.png", 3)
    write(units / "unknown.png", 4)  # belongs to no race
    for i in range(20):
        write(units / "bats" / f"bat-{i}.png", 10 + i)  # nothing to hold out
    sprites.make(units, tmp_path / "images", least=20)
    paths = made(tmp_path / "images")
    assert {path.split("/")[0] for path in sum(paths.values(), [])} == {"elves", "orcs"}
    assert len(sum(paths.values(), [])) == 2 * 8 * 3
    last = capsys.readouterr().out.splitlines()[-1]
    for count in (
        "1 the same as another",
        "1 not 72x72",
        "1 less than 12% opaque",
        "21 of races with less than 20, or a single unit",
    ):
        assert count in last


@pytest.mark.parametrize(
    ("box", "corner"),
    [
        ((20, 20, 52, 52), (16, 16)),  # the centre: 4 pixels are cut on each side
        ((0, 20, 40, 52), (0, 16)),
        ((40, 30, 72, 72), (32, 22)),
        ((2, 20, 70, 52), (-2, 16)),  # wider than an image: cut on both sides
    ],
)
def test_sprites_are_cropped_on_grey_without_resizing(sprites, tmp_path, box, corner):
    drawn = write(tmp_path / "units" / "elves" / "elf.png", 5, box=box)
    with Image.open(tmp_path / "units" / "elves" / "elf.png") as opened:
        opaque = np.asarray(opened)[..., 3] > 0
        image = np.asarray(sprites.cropped(opened, opaque))
    expected = np.full((64, 64, 3), GREY, np.uint8)
    left, top = corner
    cut = drawn[:, max(0, -left) : 64 - left]
    left = max(0, left)
    expected[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    assert np.array_equal(image, expected)


def test_training_reads_the_folder_pixel_by_pixel(sprites, units, tmp_path):
    sprites.make(units, tmp_path / "images", least=20)
    values = {"data.name": "folder", "data.size": 64}
    config = replace(Config(), values | {"data.path": str(tmp_path / "images")})
    for split in ("train", "test"):
        source = pipeline.open_source(config, split)
        assert source.class_names == ("elves", "orcs")
        path = source.records[0].image
        assert np.array_equal(source.examples(np.arange(1)).image[0], pixels(path))


def test_mistakes_are_named(sprites, units, tmp_path):
    out = tmp_path / "images"
    with pytest.raises(ConfigError, match="nowhere: no such folder; `apt-get install"):
        sprites.make(tmp_path / "nowhere", out)
    with pytest.raises(ConfigError, match="units: no folder with at least 100 sprites"):
        sprites.make(units, out)
    broken = units / "orcs" / "orcs0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ConfigError, match="orcs0.png: cannot be read"):
        sprites.make(units, out)
    assert not out.exists()
