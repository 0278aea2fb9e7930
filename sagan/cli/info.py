"""The command `info`: what a run is and how far it is, or what can be named."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from sagan.cli.arguments import command
from sagan.config import differences, loading
from sagan.config.schema import MAY_CHANGE, Config
from sagan.runtime.progress import first_few, printable


@dataclasses.dataclass(frozen=True)
class InfoOptions:
    """Options of `sagan info`."""

    workdir: tyro.conf.Positional[
        Annotated[Path | None, tyro.conf.arg(metavar="WORKDIR")]
    ] = None
    """Workdir of a run."""


@command(lambda: InfoOptions)
def info_command(options: InfoOptions) -> None:
    """Describes a run; without one, lists recipes, data sets, losses and the like."""
    workdir = options.workdir
    for name, text in _known() if workdir is None else _run(workdir):
        print(f"{name:<15}{text}")


def _known() -> Iterator[tuple[str, str]]:
    from sagan.augment import AUGMENTATIONS
    from sagan.blocks import BLOCKS
    from sagan.data.datasets import DATASETS
    from sagan.losses import LOSSES
    from sagan.metrics import METRICS
    from sagan.metrics.features import FEATURES
    from sagan.visualization.sheets import SHEETS

    yield "recipes", ", ".join(loading.recipes())
    yield "data sets", f"{', '.join(DATASETS)}, and those of the TFDS catalogue"
    tables = {"losses": LOSSES, "blocks": BLOCKS, "augmentations": AUGMENTATIONS}
    tables |= {"metrics": METRICS, "features": FEATURES, "sheets": SHEETS}
    for name, table in tables.items():
        yield name, ", ".join(table)


def _run(workdir: Path) -> Iterator[tuple[str, str]]:
    from sagan.checkpoints.restore import SavedRun
    from sagan.checkpoints.workdir import has_checkpoint, imported_from, read_config
    from sagan.visualization.run_record import read_record, run_times

    config = read_config(workdir)
    data, record = config.data, read_record(workdir, config)
    classes = f"{data.classes} classes" if data.classes else "unconditional"
    if record.class_names:
        classes += f": {first_few(record.class_names)}"
    yield "recipe", _nearest_recipe(config)
    if imported := imported_from(workdir):
        yield "imported", imported
    yield "data", f"{data.name} {data.path}".strip()
    yield "images", f"{data.size}x{data.size}x{data.channels}, {classes}"
    last = record.metrics[-1] if record.metrics else {"step": 0.0}
    yield "logged", f"step {last['step']:.0f} of {config.run.steps}"
    if has_checkpoint(workdir):
        checkpoints = SavedRun(workdir, config).checkpoints
        yield "checkpoints", ", ".join(map(str, checkpoints.steps()))
        yield "best", str(checkpoints.best() or "unknown (run.evaluate_every is 0)")
    else:
        yield "checkpoints", "none"
    yield "evaluation", _evaluation(record.results)
    goodput = f"{last.get('time/goodput', math.nan):.0%} in steps"
    times = run_times(record)
    words = f"{times['duration']}, {goodput}; until {times['date']}" if times else ""
    yield "time", words or "not logged"
    for finding in record.findings[-1:]:
        yield "monitor", printable(f"step {finding['step']}: {finding['message']}")


def _nearest_recipe(config: Config) -> str:
    """A recipe of the same data, if there is one, and the few fields that differ."""
    ignored = MAY_CHANGE | {"data.classes", "run.seed", "run.init_from"}
    unlike = {
        name: {
            field: values[1]
            for field, values in differences(loading.load(name), config).items()
            if field not in ignored
        }
        for name in loading.recipes()
    }
    name = min(unlike, key=lambda n: ("data.name" in unlike[n], len(unlike[n])))
    changes = [f"{field} = {value!r}" for field, value in unlike[name].items()]
    return " with ".join(filter(None, [name, ", ".join(changes)]))


def _evaluation(evaluations: Sequence[dict[str, Any]]) -> str:
    from sagan.evaluation import card

    if not evaluations:
        return "none that can be read"
    newest = evaluations[-1]
    variant = list(card.by_variant(newest))[-1]
    values = map(" ".join, card.headline(newest))
    return printable(f"step {newest['about']['step']} ({variant}): {', '.join(values)}")
