"""The commands for weights of other projects: import, export."""

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sagan.cli.arguments import (
    OPTIONS,
    Arguments,
    ConfigFields,
    Workdir,
    check_paths,
    command,
    parse_dataclass,
)
from sagan.cli.spelling import NO_WORKDIR, joined, option_types, spell
from sagan.config import fields
from sagan.config.schema import Config, ConfigError


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """Options of `sagan import`."""

    files: tyro.conf.Positional[
        Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")]
    ]
    """G.pth [G_ema.pth] [D.pth]: a generator, its average and, to train on, its
    discriminator; or a folder of `sagan export`."""
    like: Annotated[str, tyro.conf.arg(metavar="{studiogan,biggan,mmgen}")] = ""
    """Project that wrote them: PyTorch-StudioGAN, BigGAN-PyTorch or MMGeneration; not
    for a folder of `sagan export`."""
    workdir: str = ""
    """New workdir."""
    bgr: bool = False
    """The networks were trained on BGR images, as MMGeneration's were."""
    config: ConfigFields = Config()


OPTIONS["import"] = lambda: ImportOptions


def import_command(args: Arguments) -> None:
    """Makes a workdir from files of StudioGAN, BigGAN-PyTorch or MMGeneration."""
    known = option_types(ImportOptions)
    files, rest = spell(args, known)
    check_paths(files, rest, known)
    about = import_command.__doc__ or ""
    options = parse_dataclass(
        ImportOptions, joined(files, rest), prog="sagan import", description=about
    )
    if not options.files:
        raise ConfigError("name the files first: G.pth [G_ema.pth] [D.pth]")
    if not options.workdir:
        raise ConfigError(NO_WORKDIR)
    values = fields(options.config)
    names = {re.sub(r"(^|\.)no_", r"\1", o[2:].replace("-", "_")) for o, *_ in rest}
    overrides = {name: values[name] for name in names if name in values}
    from sagan.weights.importing import import_weights  # imports JAX

    import_weights(
        options.files,
        options.like,
        Path(options.workdir),
        bgr=options.bgr,
        overrides=overrides,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `sagan export`."""

    workdir: Workdir
    """Workdir of the run; also as --workdir."""
    to: Literal["safetensors", "studiogan", "biggan", "mmgen"]
    """safetensors: a folder for the Hugging Face hub. Else the names of a project."""
    out: Path
    """The folder, or the .pth file."""
    step: str = "latest"
    """Checkpoint: latest, best, or a number."""
    weights: str = ""
    """raw, ema, or the decay of one average. Empty: ema if there is one."""
    bgr: bool = False
    """Write a network that makes BGR images, for MMGeneration."""


@command(lambda: ExportOptions)
def export_command(options: ExportOptions) -> None:
    """Writes a run's generator as safetensors, or under another project's names."""
    from sagan.weights.exporting import export_weights  # imports JAX

    print(export_weights(**vars(options)))
