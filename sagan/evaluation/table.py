"""One table of several runs, like table 2 of the paper."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sagan.checkpoints.bucket_copy import shown
from sagan.checkpoints.restore import SavedRun
from sagan.checkpoints.workdir import read_config
from sagan.config.fields import fields
from sagan.config.schema import MAY_CHANGE, ConfigError
from sagan.evaluation import card
from sagan.evaluation import results as results_lib
from sagan.evaluation.protocol import Protocol, choose_names, evaluated_weights
from sagan.metrics.interface import is_spread

_FIRST = ("is", "is_single", "fid", "ifid")  # arXiv:1805.08318, table 2
_MOST_FIELDS = 4  # in the name of a row
_REAL = "baseline"


class _Evaluated(NamedTuple):
    """A run with one kind of weights and statistics, and its numbers by metric."""

    workdir: Path
    recipe: dict[str, Any]
    seed: int
    result: results_lib.Result
    variant: str
    rows: Mapping[str, Mapping[str, Any]]


def compare_runs(
    workdirs: Iterable[Path],
    *,
    step: str = "latest",
    metrics: str = "all",
    weights: str = "",
    batch_norm: str = "moving",
) -> dict[str, Any]:
    """A row for each recipe: means and deviations over runs that differ in the seed.

    Args:
      workdirs: Directories of evaluated runs.
      step: "latest" or "best" of each run, or the step of an evaluation.
      metrics: Names of numbers, separated by commas, or "all": the paper's first.
      weights: As in Protocol; empty: ema if the run has averages, else raw.
      batch_norm: As in Protocol.

    Raises:
      ConfigError: There is no such run, evaluation or metric; the evaluations cannot
        be compared; or two runs have the same recipe and seed.
    """
    found, groups = [], defaultdict(list)
    for workdir in dict.fromkeys(workdirs):
        found += _read(workdir, step, weights, batch_norm)
    for one in found:
        _check_comparable(found[0], one)
        groups[(*one.recipe.items(), one.variant)].append(one)
    first, protocol = found[0].recipe, found[0].result["protocol"]
    unlike = [k for k in first if any(one.recipe[k] != first[k] for one in found)]
    plain = {n: _plain(n, protocol) for one in found for n in one.rows}
    known = sorted(plain, key=lambda n: [*_FIRST, plain[n]].index(plain[n]))
    known = [name for name in known if not is_spread(name)]
    full = {plain[n]: n for n in known}
    metrics = ",".join(full.get(n.strip(), n) for n in metrics.split(","))
    names = choose_names("metrics", metrics, known)
    baselines = {n: row for one in found for n, row in one.rows.items() if _REAL in row}
    return {
        "better": {n: card.better(n) for n in names},
        "rows": [_row(group, unlike, names) for group in groups.values()],
        _REAL: {
            n: {k: v for k, v in baselines[n].items() if k.startswith(_REAL)}
            for n in names
            if n in baselines
        },
        **{k: found[0].result[k] for k in ("protocol", "protocol_sha256", "versions")},
    }


def render_table(table: Mapping[str, Any]) -> str:
    """The table of compare_runs as Markdown."""
    better, protocol = table["better"], table["protocol"]
    head = [card.titled(name, direction) for name, direction in better.items()]
    lines = [["run", "weights", "seeds", "step", *head]]
    for row in table["rows"]:
        steps = sorted({run["step"] for run in row["runs"]})
        about = [row["weights"], str(len(row["runs"])), ", ".join(map(str, steps))]
        lines.append([row["name"], *about, *(_cell(row, name) for name in better)])
    if reals := table[_REAL]:
        cells = [card.baseline_text(reals.get(name, {})) for name in better]
        lines.append(["real against real", "", "", "", *cells])
    facts = ("samples", "reals", "real split", "features")
    about = [f"{k}: {protocol[k]}" for k in facts if k in protocol]
    about.append("±: sample standard deviation over seeds")
    return f"{card.markdown_table(lines)}\n\n{'; '.join(about)}"


def _read(workdir: Path, step: str, weights: str, modes: str) -> list[_Evaluated]:
    """A run's evaluation at a step, once for each chosen variant."""
    config = read_config(workdir)
    weights = weights or ("ema" if config.ema.decays else "raw")
    protocol = Protocol(weights=weights, batch_norm=modes)
    names, kinds = evaluated_weights(protocol, config), protocol.chosen_batch_norm()
    results, _ = results_lib.read_results(workdir / "eval")
    if not results:
        raise ConfigError(
            f"{workdir}: has no evaluation that can be read; to evaluate it: sagan eval"
            f" {workdir}"
        )
    by_step = {str(result["about"]["step"]): result for result in results}
    at = [*by_step][-1] if step == "latest" else step
    if step == "best":
        (at,) = map(str, SavedRun(workdir, config).steps(step))
    if at not in by_step:
        raise ConfigError(
            f"--step {step}: must be latest, best, or of {workdir} one of"
            f" {', '.join(by_step)}"
        )
    variants = card.by_variant(by_step[at])
    chosen = [f"{name}, {mode}" for name in names for mode in kinds]
    if missing := [variant for variant in chosen if variant not in variants]:
        raise ConfigError(
            f"{workdir}: step {at} was not evaluated with ({missing[0]}), only with"
            f" ({'), ('.join(variants)}); see --weights and --batch-norm"
        )
    ignored = MAY_CHANGE - {"run.steps"} | {"run.seed", "run.init_from"}
    recipe = {k: v for k, v in fields(config).items() if k not in ignored}
    about = (workdir, recipe, config.run.seed, by_step[at])
    return [_Evaluated(*about, variant, variants[variant]) for variant in chosen]


def _check_comparable(a: _Evaluated, b: _Evaluated) -> None:
    one, other = ({**x.result["protocol"], **x.result["versions"]} for x in (a, b))
    if unlike := [k for k in {**one, **other} if one.get(k) != other.get(k)]:
        raise ConfigError(
            f"{a.workdir} and {b.workdir}: cannot be compared, because their"
            f" evaluations differ in {', '.join(unlike)}; evaluate both alike"
        )


def _row(
    group: Sequence[_Evaluated], unlike: Sequence[str], names: Iterable[str]
) -> dict[str, Any]:
    """The runs of one recipe, and each metric's mean over those that have it."""
    by_seed: dict[int, _Evaluated] = {}
    for one in group:
        if (other := by_seed.setdefault(one.seed, one)) is not one:
            raise ConfigError(
                f"{other.workdir} and {one.workdir}: have the same recipe and run.seed"
                f" {one.seed}; name one of them"
            )
    recipe = {k: group[0].recipe[k] for k in unlike}
    name = ", ".join(f"{k}={v!r}" for k, v in recipe.items())
    if not 0 < len(unlike) <= _MOST_FIELDS:
        name = ", ".join(shown(one.workdir) for one in group)
    runs = [
        {"workdir": shown(o.workdir), "seed": o.seed, "step": o.result["about"]["step"]}
        for o in group
    ]
    values = {}
    for n in names:
        each = [float(one.rows[n]["value"]) if n in one.rows else None for one in group]
        if have := [value for value in each if value is not None]:
            values[n] = {**over_seeds(have), "each": each}
    about = {"name": name, "recipe": recipe, "weights": group[0].variant}
    return {**about, "runs": runs, "values": values}


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (of two and more) and number of the values."""
    spread = {"std": float(np.std(values, ddof=1))} if values[1:] else {}
    return {"value": float(np.mean(values)), **spread, "n": len(values)}


def _cell(row: Mapping[str, Any], name: str) -> str:
    """A mean; with its number of runs if some of them lack it."""
    if name not in row["values"]:
        return ""
    value, runs = row["values"][name], len(row["runs"])
    some = f" ({value['n']} of {runs})" if value["n"] < runs else ""
    return card.value_text(value) + some


def _plain(name: str, protocol: Mapping[str, Any]) -> str:
    """The inverse of features.metric_name: fid for fd_classifier."""
    short = name.removesuffix(f"_{protocol.get('features')}")
    return short if short == name else short.replace("fd", "fid", 1)
