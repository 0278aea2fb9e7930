"""Renders the page of a report: one HTML file that loads nothing."""

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from sagan.checkpoints.restore import OpenedRun, config_digest
from sagan.config import fields as config_fields
from sagan.config import to_json
from sagan.config.schema import Config
from sagan.evaluation import card
from sagan.evaluation.results import versions
from sagan.runtime.progress import printable
from sagan.sampling.attention_maps import attention_layers
from sagan.state import count
from sagan.visualization import explorer, svg
from sagan.visualization.curves import make_plots
from sagan.visualization.embedded import EmbeddedPicture
from sagan.visualization.explorer import Explorer
from sagan.visualization.run_record import RunRecord, run_times

_HERE = Path(__file__).parent
Table = list[list[str]]


class ShownSheet(NamedTuple):
    """A sheet, or notes why there is none."""

    name: str
    picture: EmbeddedPicture | None
    notes: list[str]


class ReportedRun(NamedTuple):
    """Everything that a page shows of a run.

    Attributes:
      seed: Seed of the explorers' latents.
      grids: Grids of samples.
      explorers: One for each network.
    """

    opened: OpenedRun
    seed: int
    record: RunRecord
    grids: list[EmbeddedPicture]
    explorers: list[Explorer]
    sheets: list[ShownSheet]

    @property
    def name(self) -> str:
        """The run's name, unique on its page."""
        return self.record.name


def render_page(runs: Sequence[ReportedRun]) -> str:
    """The text of the file."""
    script = (_HERE / "explorer.js").read_text("utf-8")
    sha = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    explorers = [one for run in runs for one in run.explorers if one.images]
    return environment.get_template("report.html").render(
        title=" and ".join(run.name for run in runs),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline';"
        f" script-src 'sha256-{sha}'",
        css=Markup((_HERE / "report.css").read_text("utf-8")),
        script=Markup(script),
        runs=runs,
        several=len(runs) > 1,
        players=explorer.PLAYERS,
        overviews=[explorer.overview(run.explorers) for run in runs],
        facts=_facts_table(runs) if len(runs) > 1 else _facts(runs[0]).items(),
        grids=_sample_grids(runs),
        evaluations=_evaluations(runs),
        # an SVG has no text from the run, so it is safe markup
        plots=[
            (plot, svg.legend(plot), Markup(svg.draw_svg(plot)))
            for plot in make_plots([run.record for run in runs])
        ],
        configs=_configs(runs),
        config_json=[to_json(run.opened.config) for run in runs],
        provenance=_provenance(runs),
        data=[_script_data(one) for one in explorers],
    )


def _printable(value: Any) -> Any:
    return printable(value, keep="\n") if type(value) is str else value


def _script_data(one: Explorer) -> dict[str, Any]:
    """The data of explorer.js; the page itself has the pictures and labels."""
    keys = ("logit", "layers")
    images = [{key: image[key] for key in keys} for image in one.images]
    return {"layers": one.layers, "images": images}


def _sample_grids(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """The grids of samples; those of the same kind of weights side by side."""
    shown = []
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        for kind, grid in enumerate(run.grids):
            caption = f"{prefix}{grid.caption}"
            shown.append({**grid._asdict(), "caption": caption, "kind": kind})
    return sorted(shown, key=lambda one: one["kind"])


def _facts(run: ReportedRun) -> dict[str, str]:
    opened, data, state = run.opened, run.opened.config.data, run.opened.state
    classes = f"{data.classes} classes" if data.classes else "unconditional"
    layers = []
    for player in "gd":
        grids = attention_layers(opened.config, player).values()
        if grids:
            sizes = ", ".join(f"{grid.queries}×{grid.queries}" for grid in grids)
            layers.append(f"{player.upper()} {sizes}")
    return {
        "data": data.name,
        "images": f"{data.size}×{data.size}, {classes}",
        "step": f"{opened.step:,} of {opened.config.run.steps:,}",
        "weights": opened.weights,
        "attention": "; ".join(layers) or "none",
        "parameters": f"G {_rounded(state.g)}; D {_rounded(state.d)}",
        **run_times(run.record),
        "sagan": versions()["sagan"],
    }


def _rounded(player: Any) -> str:
    n = count(player.params)
    return f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n / 1e3:.0f} k"


def _facts_table(runs: Sequence[ReportedRun]) -> Table:
    each = {run.name: _facts(run) for run in runs}
    head = ["run", *next(iter(each.values()))]
    return [head, *([name, *facts.values()] for name, facts in each.items())]


class _Evaluation(NamedTuple):
    """A part of the section: a table with remarks, or how to evaluate."""

    title: str = ""
    headline: Sequence[tuple[str, str]] = ()
    table: Table | None = None
    classes: Table | None = None
    line: str = ""
    notes: Sequence[str] = ()
    command: str = ""


def _evaluations(runs: Sequence[ReportedRun]) -> list[_Evaluation]:
    """The newest evaluation of each run, and a comparison if there are several."""
    parts, evaluated = [], [run for run in runs if run.record.results]
    if len(runs) > 1 and evaluated:
        parts.append(_comparison(evaluated))
    for run in runs:
        title = run.name if len(runs) > 1 else ""
        if not run.record.results:
            command = f"sagan eval {shlex.quote(str(run.opened.workdir))}"
            line = "This run has not been evaluated yet. To evaluate it:"
            parts.append(_Evaluation(title, line=line, command=command))
            continue
        result = run.record.results[-1]
        line = (
            f"Step {result['about']['step']}, {result['protocol'].get('samples')}"
            " samples."
        )
        explained = [re.sub("[*`]", "", text) for text in card.explanations(result)]
        notes = [*explained, *map(str, result["notes"])]
        tables = card.result_table(result), card.class_table(result)
        parts.append(_Evaluation(title, card.headline(result), *tables, line, notes))
    return parts


def _comparison(runs: Sequence[ReportedRun]) -> _Evaluation:
    """The last variant of each run's newest evaluation."""
    newest = {run.name: run.record.results[-1] for run in runs}
    last = {
        name: next(reversed(card.by_variant(result).items()))
        for name, result in newest.items()
        if card.by_variant(result)
    }
    table = [
        ["metric", *last],
        ["step", *(str(newest[name]["about"]["step"]) for name in last)],
        ["weights", *(variant for variant, _ in last.values())],
    ]
    for metric in dict.fromkeys(name for _, rows in last.values() for name in rows):
        values = [rows.get(metric, {}).get("value") for _, rows in last.values()]
        table.append([metric, *("" if v is None else f"{v:.4g}" for v in values)])
    same = len({newest[name]["protocol_sha256"] for name in last}) < 2
    line = "" if same else "The protocols differ: these numbers are not comparable."
    return _Evaluation("All runs", table=table, line=line)


def _configs(runs: Sequence[ReportedRun]) -> list[tuple[str, Table]]:
    """Tables of the fields in which the runs differ, and of those not official."""
    each = [config_fields(run.opened.config) for run in runs]
    official = config_fields(Config())
    names = [run.name for run in runs] if len(runs) > 1 else ["this run"]

    def table(wanted: Sequence[str]) -> Table:
        rows = [[k, *(_text(one[k]) for one in [*each, official])] for k in wanted]
        return [["field", *names, "official recipe"], *rows]

    unlike = [k for k in official if any(one[k] != each[0][k] for one in each)]
    others = [k for k in official if any(one[k] != official[k] for one in each)]
    rest = table([k for k in others if k not in unlike])
    tables = [("Fields that differ from the official recipe", rest)]
    if len(runs) > 1:
        tables.insert(0, ("Fields that differ between the runs", table(unlike)))
    return tables


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "(empty)"
    return '""' if value == "" else str(value)


def _provenance(runs: Sequence[ReportedRun]) -> Table:
    lines = [["", "value"]]
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        lines.append([f"{prefix}workdir", str(run.opened.workdir)])
        lines.append([f"{prefix}checkpoint", run.opened.words])
        lines.append([f"{prefix}config SHA-256", config_digest(run.opened.config)])
    lines.append(["seed of the latents", str(runs[0].seed)])
    return [*lines, *([name, value] for name, value in versions().items())]
