"""The commands that draw: attend, sheets, report."""

import argparse
import re

from sagan.cli.arguments import Arguments, at_least, checkpoint_parser
from sagan.config.schema import ConfigError
from sagan.runtime import program_cache


def attend_command(args: Arguments) -> None:
    """Draws attention maps of query pixels, in generated or real images."""
    parser = checkpoint_parser(
        attend_command,
        classes="labels to draw, in equal shares (default: all)",
        out="folder (default: WORKDIR/attend/step_N)",
    )
    parser.add_argument("--n", type=at_least(1), default=8, help="number of images (8)")
    parser.add_argument(
        "--queries",
        type=_pixel,
        nargs="+",
        default=["auto"],
        metavar="Y,X",
        help="query pixels, as row,column from the top left; auto: for each image and"
        " layer four whose attention differs (default)",
    )
    parser.add_argument(
        "--layers", nargs="+", help="layers, such as attention32 (default: all)"
    )
    parser.add_argument(
        "--real",
        action="store_true",
        help="also draw the discriminator's layers, in real images",
    )
    parser.add_argument(
        "--whole", action="store_true", help="write all of beta to maps.npz"
    )
    parser.add_argument(
        "--ablate",
        choices=["gamma=0"],
        help="also draw and evaluate with each attention layer switched off",
    )
    options = parser.parse_args(args)
    from sagan.checkpoints.restore import labels_to_draw, open_run
    from sagan.checkpoints.workdir import read_config
    from sagan.visualization import ablation, attention_reading, heatmaps

    program_cache.keep_compiled()
    config = read_config(options.workdir)
    grids = heatmaps.choose_layers(config, options.layers, real=options.real)
    if options.ablate and "g" not in grids:
        raise ConfigError("--ablate gamma=0: the generator has no such attention layer")
    if "auto" in options.queries and len(options.queries) > 1:
        raise ConfigError("--queries auto: must be alone, or pixels only")
    queries = None if "auto" in options.queries else options.queries
    attention_reading.check_pixels(config.data.size, queries or ())
    labels = labels_to_draw(config, options.n, options.classes)
    opened = open_run(options.workdir, options.step, options.weights)
    out = options.out or options.workdir / "attend" / f"step_{opened.step}"
    common = {"seed": options.seed, "out": out}
    choices = {"queries": queries, "whole": options.whole}
    heatmaps.attend(opened, labels, grids, **choices, **common)
    if options.ablate:
        ablation.ablate(opened, labels, list(grids["g"]), **common)


def sheets_command(args: Arguments) -> None:
    """Draws sheets of images: classes, interpolation, truncation, neighbours."""
    parser = checkpoint_parser(
        sheets_command,
        classes="labels to draw, such as 3 8 (default: a few of all)",
        out="folder (default: WORKDIR/sheets/step_N)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="sheets among classes, interpolation, truncation, neighbours, progress"
        " (default: all that the run allows)",
    )
    options = parser.parse_args(args)
    from sagan.visualization.sheets import write_sheets

    program_cache.keep_compiled()
    write_sheets(**vars(options))


def report_command(args: Arguments) -> None:
    """Writes an HTML page about one or more runs."""
    parser = checkpoint_parser(
        report_command,
        classes=None,
        out="file (default: report.html, in the workdir of a single run)",
    )
    options = parser.parse_args(args)
    from sagan.visualization.report import report

    program_cache.keep_compiled()
    print(report(**vars(options)))


def _pixel(text: str) -> tuple[int, int] | str:
    if text == "auto":
        return text
    if not re.fullmatch(r"\d{1,6},\d{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text}: must be auto or ROW,COLUMN")
    y, x = map(int, text.split(","))
    return y, x
