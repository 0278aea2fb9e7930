"""The page of a report: what was gathered, as one file of HTML that loads nothing."""

import base64
import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from sagan.checkpoints.restore import Opened, config_digest
from sagan.config import fields as config_fields
from sagan.config import to_json
from sagan.config.schema import Config
from sagan.evaluation import results
from sagan.sampling.attention_maps import attention_layers
from sagan.state import count
from sagan.visualization import curves, explorer
from sagan.visualization.panels import Curves, Panel, panels
from sagan.visualization.record import Picture, Record, variants

_HERE = Path(__file__).parent
_SHOWN_PIXELS = 40  # of one image of a grid of samples, at least
PLAYERS = {"g": "The generator", "d": "The discriminator"}


class ShownSheet(NamedTuple):
    """A sheet, or why there is none."""

    name: str
    picture: Picture | None
    notes: list[str]


class Part(NamedTuple):
    """The explorer of one network; without a group the notes say why."""

    player: str
    group: explorer.Group | None
    notes: list[str]


class Run(NamedTuple):
    """What a page shows of a run.

    Attributes:
      name: no two runs of a page have the same.
      seed: of the explorer's latents.
    """

    name: str
    opened: Opened
    seed: int
    record: Record
    pictures: list[Picture]
    parts: list[Part]
    sheets: list[ShownSheet]


def page(runs: Sequence[Run]) -> str:
    """The file's text."""
    groups: list[Any] = []
    shown = [_shown(run, groups, len(runs) > 1) for run in runs]
    script = (_HERE / "explorer.js").read_text("utf-8")
    sha = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=" and ".join(run.name for run in runs),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline';"
        f" script-src 'sha256-{sha}'",
        css=Markup((_HERE / "report.css").read_text("utf-8")),
        script=Markup(script),
        several=len(runs) > 1,
        pictures=_pictures(runs),
        rows_are_classes=bool(runs[0].opened.config.data.classes),
        runs=shown,
        evaluations=_evaluations(runs),
        curves=[_curve(panel) for panel in panels(_drawn(runs))],
        configs=_configs(runs),
        provenance=_provenance(runs),
        data=groups,
    )


def _drawn(runs: Sequence[Run]) -> list[Curves]:
    return [Curves(run.name, run.opened.config, run.record) for run in runs]


def _curve(panel: Panel) -> dict[str, Any]:
    drawing = Markup(curves.svg(panel))  # has no text from the run
    return {"panel": panel, "svg": drawing, "legend": curves.legend(panel)}


def _shown(run: Run, groups: list[Any], several: bool) -> dict[str, Any]:
    """What the template asks of a run; adds its explorers' data to `groups`."""
    parts = []
    for part in run.parts:
        title = PLAYERS[part.player]
        if several:
            title = f"{run.name}: {title.replace('The', 'the')}"
        told = {"title": title, "group": None, "notes": part.notes}
        if (group := part.group) is not None:
            told |= {"group": _with_texts(group), "number": len(groups)}
            told |= {"legend": _legend(run, group)}
            images = [
                {key: seen[key] for key in ("logit", "layers")} for seen in group.images
            ]
            groups.append({"layers": group.layers, "images": images})
        parts.append(told)
    return {
        "name": run.name,
        "words": run.opened.words,
        "facts": _facts(run),
        "parts": parts,
        "overview": _overview(run),
        "findings": run.record.findings,
        "sheets": run.sheets,
        "notes": run.record.notes,
        "config_json": to_json(run.opened.config),
    }


def _pictures(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The grids of samples: of several runs, those of one kind beside each other."""
    shown = []
    for run in runs:
        # small pixels are enlarged by a whole factor and stay squares
        times = max(1, -(-_SHOWN_PIXELS // run.opened.config.data.size))
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        for place, picture in enumerate(run.pictures):
            size = {"width": picture.width * times, "height": picture.height * times}
            facts = {"uri": picture.uri, "caption": f"{prefix}{picture.caption}"}
            shown.append({**facts, **size, "pixels": times > 1, "place": place})
    return sorted(shown, key=lambda one: one["place"])


def _overview(run: Run) -> list[list[str]]:
    lines = [list(explorer.OVERVIEW)]
    for part in run.parts:
        if part.group is not None:
            player = PLAYERS[part.player].removeprefix("The ")
            rows = explorer.overview(part.group)
            lines += [[f"{player}, {name}", *cells] for name, *cells in rows]
    return lines


def _with_texts(group: explorer.Group) -> explorer.Group:
    texts = [{**m, "gamma_text": explorer.signed(m["gamma"])} for m in group.layers]
    return group._replace(layers=texts)


def _legend(run: Run, group: explorer.Group) -> str:
    if group.player == "d":
        return f"Real images ({run.opened.config.data.name})"
    return f"Samples with {run.opened.weights}, seed {run.seed}"


def _facts(run: Run) -> dict[str, str]:
    opened, cfg = run.opened, run.opened.config
    size, classes = cfg.data.size, cfg.data.classes
    at = {}
    for player in "gd":
        grids = attention_layers(cfg, player).values()
        if places := ", ".join(f"{grid.queries}×{grid.queries}" for grid in grids):
            at[places] = [*at.get(places, []), player.upper()]
    sizes = {"G": count(opened.state.g.params), "D": count(opened.state.d.params)}
    return {
        "data": cfg.data.name,
        "images": f"{size}×{size}, {_plural(classes or 0)}",
        "step": f"{opened.step:,} of {cfg.run.steps:,}",
        "weights": opened.weights,
        "attention": "; ".join(f"{k} in {' and '.join(v)}" for k, v in at.items())
        or "none",
        "parameters": "; ".join(f"{k} {_rounded(n)}" for k, n in sizes.items()),
    }


def _rounded(n: int) -> str:
    return f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n / 1e3:.0f} k"


def _plural(classes: int) -> str:
    return f"{classes} classes" if classes else "unconditional"


def _evaluations(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The newest evaluation of a run; of several runs a table of all."""
    parts = []
    for run in runs:
        title = run.name if len(runs) > 1 else ""
        if not run.record.results:
            command = f"python eval.py --workdir {shlex.quote(str(run.opened.workdir))}"
            line = "This run was not evaluated yet. This evaluates it:"
            parts.append({"title": title, "lines": [line], "command": command})
        elif len(runs) == 1:
            result = run.record.results[-1]
            parts.append(
                {
                    "table": results.result_table(result),
                    "lines": [_about(result)],
                    "notes": list(map(str, result["notes"])),
                }
            )
    evaluated = [run for run in runs if run.record.results]
    if len(runs) > 1 and evaluated:
        parts.insert(0, _side_by_side(evaluated))
    blank = {"title": "", "table": None, "lines": [], "notes": [], "command": ""}
    return [{**blank, **part} for part in parts]


def _about(result: results.Result) -> str:
    samples = result["protocol"].get("samples")
    step = result["about"]["step"]
    return (
        f"Step {step}, {samples} samples. Real against real: reals in the place of the"
        " samples, as many as the last column says."
    )


def _side_by_side(runs: Sequence[Run]) -> dict[str, Any]:
    runs = [run for run in runs if variants(run.record.results[-1])]
    newest = [run.record.results[-1] for run in runs]
    last = [variants(result)[-1] for result in newest]
    lines = [["metric", *(run.name for run in runs)]]
    lines.append(["step", *(str(result["about"]["step"]) for result in newest)])
    lines.append(["weights", *(name for name, _ in last)])
    for metric in dict.fromkeys(name for _, rows in last for name in rows):
        cells = [
            f"{rows[metric]['value']:.4g}" if metric in rows else "" for _, rows in last
        ]
        lines.append([metric, *cells])
    notes = [
        f"{r.name}: {n}" for r, e in zip(runs, newest, strict=True) for n in e["notes"]
    ]
    told = []
    if len({result["protocol_sha256"] for result in newest}) > 1:
        told.append(
            "These were evaluated by different protocols: their numbers are not"
            " comparable."
        )
    return {"table": lines, "lines": told, "notes": notes}


def _configs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The fields in which the runs differ, and those that are not official."""
    each = [config_fields(run.opened.config) for run in runs]
    official = config_fields(Config())
    names = [run.name for run in runs] if len(runs) > 1 else ["this run"]

    def table(wanted: Sequence[str]) -> list[list[str]]:
        rows = [
            [k, *(_text(one[k]) for one in each), _text(official[k])] for k in wanted
        ]
        return [["field", *names, "official recipe"], *rows]

    unlike = [k for k in official if any(one[k] != each[0][k] for one in each)]
    others = [k for k in official if any(one[k] != official[k] for one in each)]
    parts = []
    if len(runs) > 1:
        parts.append(
            {"title": "Fields that differ between the runs", "table": table(unlike)}
        )
        others = [k for k in others if k not in unlike]
    title = "Fields that differ from the official recipe"
    return [*parts, {"title": title, "table": table(others)}]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "(empty)"
    return '""' if value == "" else str(value)


def _provenance(runs: Sequence[Run]) -> list[list[str]]:
    lines = [["", "value"]]
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        lines.append([f"{prefix}workdir", str(run.opened.workdir)])
        lines.append([f"{prefix}checkpoint", run.opened.words])
        lines.append([f"{prefix}config SHA-256", config_digest(run.opened.config)])
    lines.append(["seed of the latents", str(runs[0].seed)])
    return [*lines, *([name, value] for name, value in results.versions().items())]
