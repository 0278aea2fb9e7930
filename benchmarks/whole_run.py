"""Trains a config to its end, evaluates and draws the run; a library of the scripts."""

import argparse
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from sagan.checkpoints.restore import SavedRun
from sagan.checkpoints.workdir import read_config
from sagan.cli import main as cli
from sagan.evaluation.table import compare_runs, render_table
from sagan.runtime.files import write_whole

CONFIGS = Path(__file__).parents[1] / "configs"
RESULTS = Path(__file__).parent / "results"
PARTS = ("train", "evaluate", "sheets")  # and results
OWN_SHEETS = ("classes", "interpolation")  # of generated images alone


def parser(doc: str | None, name: str, parts: Sequence[str]) -> argparse.ArgumentParser:
    """A parser with --out and --only; further arguments go to train.py."""
    found = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    found.add_argument("--out", type=Path, default=Path("runs", name))
    found.add_argument("--only", nargs="+", choices=(*parts, "results"), default=parts)
    return found


def work(name: str, run: Path, others: Sequence[str], parts: Collection[str]) -> int:
    """Does the parts in order; returns the first exit code that is not 0.

    Args:
      name: Name of the config, and of the results.
      run: The workdir.
      others: Further arguments of train.py.
      parts: Of PARTS and "results".
    """
    place, code = ["--workdir", str(run)], 0
    if "train" in parts:
        config = str(CONFIGS / f"{name}.py")
        code = cli.run(cli.train_command, [config, *place, *others])
        if not code and newest(run) < read_config(run).run.steps:
            return 0  # it was stopped
    if not code and "evaluate" in parts:
        code = cli.run(cli.eval_command, place)
    if not code and "sheets" in parts:
        code = draw(run)
    if not code and "results" in parts:
        publish(name, run)
    return code


def newest(run: Path) -> int:
    """Step of the newest checkpoint."""
    return SavedRun(run, read_config(run)).steps("latest")[-1]


def draw(run: Path) -> int:
    """Draws the sheets of all classes, and the report."""
    labels = map(str, range(read_config(run).data.classes or 0))
    place = ["--workdir", str(run)]
    sheets = [*place, "--only", *OWN_SHEETS, "neighbours", "--classes", *labels]
    code = cli.run(cli.COMMANDS["sheets"], sheets)
    return code or cli.run(cli.COMMANDS["report"], place)


def publish(name: str, run: Path) -> None:
    """Writes the table of a run, and copies the pictures of its newest checkpoint."""
    table = render_table(compare_runs([run])).replace(str(run), name)
    for sheet in OWN_SHEETS:
        drawn = run / "sheets" / f"step_{newest(run)}" / f"{sheet}.png"
        shutil.copyfile(drawn, RESULTS / f"{name}_{sheet}.png")
    write_whole(RESULTS / f"{name}.md", table + "\n")
    print(f"table and pictures of step {newest(run)}: {RESULTS / name}.md")
