"""One page about a run, or about several beside each other."""

from collections.abc import Sequence
from pathlib import Path

from sagan.checkpoints.restore import Opened, open_run
from sagan.config.schema import ConfigError
from sagan.data.pipeline import open_source
from sagan.runtime.files import make_folder, write_whole
from sagan.sampling.attention_maps import attention_layers
from sagan.visualization import explorer, record
from sagan.visualization.page import PLAYERS, Part, Run, ShownSheet, page
from sagan.visualization.sheets import SHEETS

MOST_BYTES = 10_000_000  # of the file; the parts below leave room for curves and words
_EXPLORERS = {"g": 3_600_000, "d": 2_400_000}
_PICTURES, _SHEETS = 1_500_000, 1_500_000
_IMAGES = {"g": 10, "d": 6}  # in an explorer at most


def report(
    workdirs: Sequence[Path],
    *,
    out: Path | None = None,
    step: int | None = None,
    weights: str | None = None,
    seed: int = 0,
) -> str:
    """Writes report.html, one file that needs nothing else; returns what and where.

    Args:
      workdirs: of the runs, which may be going on.
      out: the file; None: report.html, in the workdir of one run, else here.
      step: of the checkpoints; None: the newest good one of each run.
      weights: as for export.open_run.
      seed: of the latents.

    Raises:
      ConfigError: there is no such run, checkpoint or average.
    """
    workdirs = list(dict.fromkeys(workdirs))
    folder = workdirs[0] if len(workdirs) == 1 else Path()
    out = out or folder / "report.html"
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; must be a file")
    make_folder(out.parent)
    opened = [open_run(workdir, step, weights) for workdir in workdirs]
    names = _names(workdirs)
    share = 1 / len(opened)
    runs = [gather(one, n, seed, share) for one, n in zip(opened, names, strict=True)]
    size = written(runs, out)
    words = "; ".join(f"{run.name}: {run.opened.words}" for run in runs)
    return f"{words}: {out} ({size / 1e6:.1f} MB)"


def written(runs: Sequence[Run], out: Path) -> int:
    """Writes the page of what was gathered; returns its bytes.

    Raises:
      ConfigError: there are too many.
    """
    text = page(runs)
    if (size := len(text.encode())) > MOST_BYTES:
        names = " ".join(run.name for run in runs)
        raise ConfigError(
            f"--workdir {names}: the page would have {size:,} bytes; must be"
            f" {MOST_BYTES:,} at most: fewer runs"
        )
    write_whole(out, text)
    return size


def _names(workdirs: Sequence[Path]) -> list[str]:
    """The names of the folders; their paths where two have the same."""
    names = [workdir.resolve().name for workdir in workdirs]
    if len(set(names)) == len(names):
        return names
    return [str(workdir) for workdir in workdirs]


def gather(opened: Opened, name: str, seed: int, share: float = 1.0) -> Run:
    """What the page shows of a run.

    Args:
      opened: the run.
      name: of the run on the page.
      seed: of the latents.
      share: of the bytes of the page.
    """
    found = record.read_record(opened.workdir, opened.config)
    pictures = record.pictures(opened.workdir, int(share * _PICTURES))
    parts = [
        part(opened, player, found, seed, int(share * _EXPLORERS[player]))
        for player in PLAYERS
    ]
    sheets = _sheets(opened, seed, int(share * _SHEETS))
    return Run(name, opened, seed, found, pictures, parts, sheets)


def part(
    opened: Opened, player: str, found: record.Record, seed: int, budget: int
) -> Part:
    """The explorer of one network, or why there is none."""
    grids = attention_layers(opened.config, player)
    if not grids:
        return Part(player, None, [f"{PLAYERS[player]} has no attention layer."])
    n = explorer.how_many(grids, _IMAGES[player], budget)
    if n < 1:
        note = f"{PLAYERS[player]}: no image fits into {budget:,} bytes of this page."
        return Part(player, None, [note])
    names = found.class_names
    try:
        if player == "g":
            group = explorer.of_generator(opened, names, seed=seed, n=n)
        else:
            source = open_source(opened.config)
            if names and names != source.class_names:
                raise ConfigError("the data have other classes now")
            n = min(n, len(source))
            group = explorer.of_discriminator(opened, names, source, n=n)
    except ConfigError as error:
        return Part(player, None, [f"{PLAYERS[player]} cannot be shown: {error}"])
    return Part(player, group, [])


def _sheets(opened: Opened, seed: int, budget: int) -> list[ShownSheet]:
    """All sheets, each a picture or the note why there is none."""
    shown = []
    for name, make in SHEETS.items():
        try:
            sheet = make(opened, seed=seed, classes=None)
        except (ConfigError, OSError) as error:
            shown.append(ShownSheet(name, None, [f"It cannot be made: {error}"]))
            continue
        seen = record.picture(sheet.picture, sheet.caption, budget // len(SHEETS))
        shown.append(ShownSheet(name, seen, list(sheet.notes)))
    return shown
