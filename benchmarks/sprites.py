"""Results on real colour images: makes a folder of sprites, trains, evaluates, draws.

apt-get install wesnoth-1.16-data
python benchmarks/sprites.py [--out runs/sprites] [--only PART ...]

The images are the 72x72 unit sprites of The Battle for Wesnoth by its artists (GPL-2+,
https://www.wesnoth.org): credit them where a picture is shown. They are drawn over
mid-grey and cropped, not resized, to 64x64. The classes are the races with at least 100
sprites. About a sixth of each race is the test split: whole units, because the sprites
of a unit are frames of its animations.

A run that was stopped is resumed, and what is finished is not done again. Any further
arguments go to train.py, such as --run.steps 500. `--only results` then copies the
table and the pictures without real sprites to benchmarks/results.
"""

import argparse
import hashlib
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import whole_run
from PIL import Image

from sagan.cli import main as cli
from sagan.config import ConfigError

SPRITES = "/usr/share/games/wesnoth/1.16/data/core/images/units"
SIDE, SIZE = 72, 64  # pixels of a sprite, and of an image
LEAST_OPAQUE = 0.12  # share of opaque pixels; others are sparks and fading ghosts
LEAST_IMAGES = 100  # of a race
BACKGROUND = "#808080"  # robes vanish in white, shadows and cloaks in black


class Sprite(NamedTuple):
    """An image of the data set.

    Attributes:
      race: Name of its class.
      path: Path of its file, relative to the folder of the race.
      image: Its pixels.
    """

    race: str
    path: Path
    image: Image.Image

    @property
    def unit(self) -> str:
        """Name of the unit: `archer` of archer-bow-2.png and archer+female.png."""
        return re.split("[-+]", self.path.stem)[0]


def read(root: Path, least: int, dropped: Counter[str]) -> list[Sprite]:
    """The sprites of all races with at least `least`, and two units; counts others."""
    races: defaultdict[str, list[Sprite]] = defaultdict(list)
    seen = set()
    for path in sorted(root.glob("*/**/*.png")):
        try:
            with Image.open(path) as opened:
                sprite = opened.convert("RGBA")
        except (OSError, SyntaxError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read ({error})") from error
        if sprite.size != (SIDE, SIDE):
            dropped[f"not {SIDE}x{SIDE}"] += 1
            continue
        opaque = np.asarray(sprite)[..., 3] > 127
        if opaque.mean() < LEAST_OPAQUE:
            dropped[f"less than {LEAST_OPAQUE:.0%} opaque"] += 1
            continue
        image = cropped(sprite, opaque)
        if image.tobytes() in seen:
            dropped["the same as another"] += 1
            continue
        seen.add(image.tobytes())
        race, *parts = path.relative_to(root).parts
        races[race].append(Sprite(race, Path(*parts), image))
    kept = []
    for sprites in races.values():
        if len(sprites) < least or len({sprite.unit for sprite in sprites}) < 2:
            dropped[f"of races with less than {least}, or a single unit"] += len(
                sprites
            )
        else:
            kept += sprites
    return kept


def cropped(sprite: Image.Image, opaque: np.ndarray) -> Image.Image:
    """The central square, moved as little as brings the opaque pixels into it."""
    corner = []
    for axis in (0, 1):  # columns, rows
        filled = np.flatnonzero(opaque.any(axis))
        first, last = int(filled[0]), int(filled[-1])
        middle = (first + last + 1 - SIZE) // 2  # of a sprite that does not fit
        bounds = (
            sorted((first, last + 1 - SIZE)) if last - first < SIZE else [middle] * 2
        )
        corner.append(
            int(np.clip(np.clip((SIDE - SIZE) // 2, *bounds), 0, SIDE - SIZE))
        )
    ground = Image.new("RGBA", sprite.size, BACKGROUND)
    drawn = Image.alpha_composite(ground, sprite).convert("RGB")
    left, top = corner
    return drawn.crop((left, top, left + SIZE, top + SIZE))


def held_out(race: str, images: Mapping[str, int]) -> set[str]:
    """Units of a race for the test split, with about a sixth of its images.

    Args:
      race: Name of the race.
      images: Number of images by unit.
    """

    def order(unit: str) -> str:
        return hashlib.sha256(f"{race}/{unit}".encode()).hexdigest()

    chosen, room = set(), sum(images.values()) // 6
    for unit in sorted(images, key=order):
        if images[unit] <= room:
            chosen.add(unit)
            room -= images[unit]
    if not chosen:  # each unit has more than a sixth
        chosen.add(min(images, key=lambda unit: (images[unit], order(unit))))
    return chosen


def split(sprites: Sequence[Sprite]) -> Iterator[tuple[str, Sprite]]:
    """The sprites with the names of their splits."""
    units: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sprite in sprites:
        units[sprite.race][sprite.unit] += 1
    test = {race: held_out(race, counts) for race, counts in units.items()}
    for sprite in sprites:
        yield ("test" if sprite.unit in test[sprite.race] else "train"), sprite


def make(root: Path, out: Path, least: int = LEAST_IMAGES) -> None:
    """Writes `out`/SPLIT/RACE/*.png, whole or not at all."""
    if not root.is_dir():
        raise ConfigError(
            f"{root}: no such folder; `apt-get install wesnoth-1.16-data` makes it, or"
            " name another with --from DIR: it must hold a folder for each race"
        )
    dropped: Counter[str] = Counter()
    sprites = read(root, least, dropped)
    if not sprites:
        raise ConfigError(
            f"{root}: no folder with at least {least} sprites of {SIDE}x{SIDE}"
        )
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, sprite in split(sprites):
        path = partial / name / sprite.race / sprite.path
        path.parent.mkdir(parents=True, exist_ok=True)
        sprite.image.save(path)
        counts[sprite.race][name] += 1
    partial.rename(out)
    for race, count in counts.items():
        print(f"{race}: {count['train']} for training, {count['test']} held out")
    total = sum(counts.values(), Counter())
    print(f"{total['train']} + {total['test']} images in {out}", end="; left out: ")
    print(", ".join(f"{number} {why}" for why, number in dropped.items()) or "none")


def work(known: argparse.Namespace, others: Sequence[str]) -> int:
    """Does the parts in order; returns the first exit code that is not 0."""
    images = known.out / "images"
    if "images" in known.only:
        if images.exists():
            print(f"{images}: already there")
        else:
            make(known.root, images)
    data = ["--data.path", str(images.resolve())]
    return whole_run.work("sprites", known.out / "run", [*data, *others], known.only)


def main() -> int:
    """Reads the arguments; mistakes are reported in one line."""
    parser = whole_run.parser(__doc__, "sprites", ("images", *whole_run.PARTS))
    parser.add_argument("--from", dest="root", type=Path, default=Path(SPRITES))
    known, others = parser.parse_known_args()
    return cli.run(lambda _: work(known, others), [])


if __name__ == "__main__":
    sys.exit(main())
