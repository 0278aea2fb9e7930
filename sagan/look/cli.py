"""The commands that draw: arguments to calls."""

import argparse
import re
from pathlib import Path

from sagan import cache
from sagan.arguments import Arguments, at_least


def attend_command(args: Arguments) -> None:
    """--workdir DIR [--queries Y,X ...]: draw where positions look."""
    parser = _parser("attend", attend_command.__doc__)
    _of_a_checkpoint(parser, "WORKDIR/attend/step_N")
    parser.add_argument("--n", type=at_least(1), default=8, help="images (8)")
    parser.add_argument(
        "--queries",
        type=_pixel,
        nargs="+",
        default=["auto"],
        metavar="Y,X",
        help="pixels, row,column from the top left, whose positions ask; auto: four"
        " that look at different things, for each image and layer (default)",
    )
    parser.add_argument(
        "--layers", nargs="+", help="names, such as attention32 (default: all)"
    )
    parser.add_argument(
        "--real",
        action="store_true",
        help="also the discriminator's layers, in real images",
    )
    parser.add_argument(
        "--whole", action="store_true", help="all rows of beta in maps.npz"
    )
    parser.add_argument(
        "--ablate",
        choices=["gamma=0"],
        help="also draw and evaluate with each attention layer switched off",
    )
    asked = parser.parse_args(args)
    from sagan.export import labels_to_draw, open_run
    from sagan.look import ablate, attend, seen
    from sagan.workdir import read_config

    cache.keep_compiled()
    config = read_config(asked.workdir)
    grids = attend.chosen_layers(config, asked.layers, real=asked.real)
    queries = None if "auto" in asked.queries else asked.queries
    seen.check_inside(config.data.size, queries or ())
    labels = labels_to_draw(config, asked.n, asked.classes)
    opened = open_run(asked.workdir, asked.step, asked.weights)
    out = asked.out or asked.workdir / "attend" / f"step_{opened.step}"
    where = {"seed": asked.seed, "out": out}
    attend.attend(opened, labels, grids, queries=queries, whole=asked.whole, **where)
    if asked.ablate:
        ablate.ablate(opened, labels, **where)


def _pixel(text: str) -> tuple[int, int] | str:
    if text == "auto":
        return text
    if not re.fullmatch(r"\d{1,6},\d{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text}: must be auto or ROW,COLUMN")
    y, x = map(int, text.split(","))
    return y, x


def _parser(name: str, about: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"sagan {name}", description=about)


def _of_a_checkpoint(parser: argparse.ArgumentParser, out: str) -> None:
    """Adds what every command takes that draws samples of one checkpoint."""
    parser.add_argument("--workdir", type=Path, required=True, help="of the run")
    parser.add_argument(
        "--classes",
        type=at_least(0),
        nargs="+",
        help="labels to draw, in equal shares (default: all)",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the latents")
    parser.add_argument("--step", type=int, help="of the checkpoint (the newest)")
    parser.add_argument(
        "--weights",
        help="raw, ema, or the decay of one average (default: ema if there is one)",
    )
    parser.add_argument("--out", type=Path, help=f"a folder (default: {out})")
