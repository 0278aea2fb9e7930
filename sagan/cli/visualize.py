"""The commands that draw: arguments to calls."""

import argparse
import re

from sagan.cli.arguments import Arguments, at_least, of_a_checkpoint
from sagan.config.schema import ConfigError
from sagan.runtime import cache


def attend_command(args: Arguments) -> None:
    """--workdir DIR [--queries Y,X ...]: draw where positions look."""
    parser = of_a_checkpoint(
        attend_command,
        "attend",
        classes="labels to draw, in equal shares (default: all)",
        out="a folder (default: WORKDIR/attend/step_N)",
    )
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
    from sagan.checkpoints.restore import labels_to_draw, open_run
    from sagan.checkpoints.workdir import read_config
    from sagan.visualization import ablation, attention_reading, heatmaps

    cache.keep_compiled()
    config = read_config(asked.workdir)
    grids = heatmaps.choose_layers(config, asked.layers, real=asked.real)
    if asked.ablate and "g" not in grids:
        raise ConfigError("--ablate gamma=0: the generator has no such attention layer")
    if "auto" in asked.queries and len(asked.queries) > 1:
        raise ConfigError("--queries auto: must be alone, or pixels only")
    queries = None if "auto" in asked.queries else asked.queries
    attention_reading.check_pixels(config.data.size, queries or ())
    labels = labels_to_draw(config, asked.n, asked.classes)
    opened = open_run(asked.workdir, asked.step, asked.weights)
    out = asked.out or asked.workdir / "attend" / f"step_{opened.step}"
    where = {"seed": asked.seed, "out": out}
    heatmaps.attend(opened, labels, grids, queries=queries, whole=asked.whole, **where)
    if asked.ablate:
        ablation.ablate(opened, labels, list(grids["g"]), **where)


def sheets_command(args: Arguments) -> None:
    """--workdir DIR [--only NAME ...]: pictures that show what a run has learned."""
    parser = of_a_checkpoint(
        sheets_command,
        "sheets",
        classes="labels to draw, such as 3 8 (default: a few of all)",
        out="a folder (default: WORKDIR/sheets/step_N)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="some of classes, interpolation, truncation, neighbours, progress"
        " (default: all that can be made)",
    )
    known = parser.parse_args(args)
    from sagan.visualization.sheets import write_sheets

    cache.keep_compiled()
    write_sheets(**vars(known))


def report_command(args: Arguments) -> None:
    """--workdir DIR [DIR ...] [--out FILE]: one page about a run, or about several."""
    parser = of_a_checkpoint(
        report_command,
        "report",
        classes=None,
        out="the file (default: report.html, in WORKDIR of one run)",
    )
    known = parser.parse_args(args)
    from sagan.visualization.report import report

    cache.keep_compiled()
    print(report(**vars(known)))


def _pixel(text: str) -> tuple[int, int] | str:
    if text == "auto":
        return text
    if not re.fullmatch(r"\d{1,6},\d{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text}: must be auto or ROW,COLUMN")
    y, x = map(int, text.split(","))
    return y, x
