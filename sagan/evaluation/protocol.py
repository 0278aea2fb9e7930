"""How an evaluation is done: every choice that decides a number."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from sagan.config.schema import Config, ConfigError
from sagan.metrics import METRICS
from sagan.metrics.features import FeatureNetwork
from sagan.metrics.resize import RESIZES

BATCH_NORM = ("moving", "standing", "batch")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The choices of comparing fakes with reals, wherever they come from."""

    metrics: str = "all"
    """Names with commas: fid, fid_infinity, kid, is, prdc, ifid, accuracy, cas. all:
    those that these data and features allow; all,-cas: without cas."""
    samples: int | None = None
    """Fakes. Default: 50,000, or as many as the reals if they are fewer; with the
    embedded networks half as many as the reals, so that the baseline has as many."""
    reals: int = 50_000
    """Reals to compare with at most, in an order that is always the same; 0: all."""
    features: str = "auto"
    """inception, classifier, rotation, or module:function of yours from uint8 images
    [n h w c] to vectors [n d]; auto: inception for colour images if its weights are
    given or in the cache, else classifier, or rotation where there are no labels."""
    weights_file: Path | None = None
    """Weights of inception: the published .pth file, or the .npz made of it."""
    resize: str = "tf1"
    """For inception: tf1 as in the original FID, or clean (antialiased bicubic)."""
    splits: int = 10
    """Of the Inception Score."""

    @property
    def strict(self) -> bool:
        """Whether each metric was asked for by name."""
        return not self.metrics.startswith("all")

    def chosen_metrics(self) -> tuple[str, ...]:
        """The metrics by name."""
        if self.strict:
            return _names("metrics", self.metrics, METRICS)
        without = [name.strip() for name in self.metrics.split(",")[1:]]
        wrong = [name for name in without if name[:1] != "-"]
        if wrong:
            raise ConfigError(f"--metrics all,{wrong[0]}: after all, only -NAME")
        names = ",".join(name[1:] for name in without)
        dropped = _names("metrics", names, METRICS) if without else ()
        return tuple(name for name in METRICS if name not in dropped)


@dataclasses.dataclass(frozen=True)
class Protocol(Comparison):
    """The choices of evaluating a run: two numbers of one protocol can be compared."""

    split: str = ""
    """The split of the reals; empty: the one that the run trained on."""
    weights: str = "both"
    """Weights of the generator: raw, ema (the first average), the decay of an average,
    both (raw and ema), or all."""
    batch_norm: str = "moving,standing"
    """Batch statistics, names with commas, or all: moving (the running averages),
    standing (recomputed with these weights), batch (of each generated batch)."""
    labels: Literal["uniform", "real"] = "uniform"
    """Labels of the fakes: every class in turn, or those of the reals."""
    truncation: float = 0.0
    """Latents beyond this are drawn again; 0: none are."""
    seed: int = 0
    """Of the latents."""
    seeds: int = 1
    """Evaluations with seeds from `seed` on: mean and standard deviation."""

    def every_seed(self) -> range:
        """One for each evaluation."""
        return range(self.seed, self.seed + self.seeds)

    def chosen_batch_norm(self) -> tuple[str, ...]:
        """The batch-norm modes by name."""
        return _names("batch-norm", self.batch_norm, BATCH_NORM)


def protocol_to_json(protocol: Protocol) -> dict[str, Any]:
    """Its fields, for a results file; protocol_from_json reads them."""
    values = dataclasses.asdict(protocol)
    file = protocol.weights_file
    return values | {"weights_file": str(file.resolve()) if file else None}


def protocol_from_json(values: Any) -> Protocol:
    """The protocol of the fields that protocol_to_json gave, checked.

    Raises:
      ConfigError: these are not such fields.
    """
    try:
        file = values["weights_file"]
        changed = {"weights_file": Path(file) if file else None}
        protocol = Protocol(**{**values, **changed})
        for field in dataclasses.fields(Protocol):
            value, usual = getattr(protocol, field.name), field.default
            kinds = (type(usual), int) if isinstance(usual, float) else (type(usual),)
            if usual is not None and type(value) not in kinds:
                raise TypeError(field.name)
        check_protocol(protocol)
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigError("its protocol cannot be read: evaluate again") from error
    return protocol


def check_protocol(asked: Comparison) -> None:
    """Raises ConfigError that names every value that cannot be, and what can."""
    problems = []
    for name in ("chosen_batch_norm", "chosen_metrics"):
        try:
            getattr(asked, name, tuple)()
        except ConfigError as error:
            problems.append(str(error))
    least = {"samples": 2, "reals": 0, "splits": 1, "seeds": 1, "seed": 0}
    for name, minimum in (least | {"truncation": 0}).items():
        value = getattr(asked, name, None)
        if value is not None and not value >= minimum:
            problems.append(f"--{name} {value}: must be at least {minimum}")
    last = getattr(asked, "seed", 0) + getattr(asked, "seeds", 1)
    if last > 2**32:
        problems.append(f"--seed {getattr(asked, 'seed', 0)}: must be below 2^32")
    if asked.resize not in RESIZES:
        known = ", ".join(RESIZES)
        problems.append(f"--resize {asked.resize}: unknown; there are {known}")
    if problems:
        raise ConfigError("\n".join(problems))


def check_labels(protocol: Comparison, classes: int) -> None:
    """Raises ConfigError where metrics of classes are asked of data without."""
    asked = protocol.chosen_metrics() if protocol.strict else []
    impossible = [name for name in asked if METRICS[name].labelled and not classes]
    if impossible:
        raise ConfigError(
            f"--metrics {','.join(impossible)}: need classes, and there are none"
            " (the run, or the images, are unconditional)"
        )


def possible_metrics(
    protocol: Comparison, classes: int, network: FeatureNetwork
) -> tuple[list[str], list[str]]:
    """The metrics to compute, and a note for each of "all" that cannot be.

    Raises:
      ConfigError: one that was asked for by name cannot be.
    """
    names, notes = [], []
    for name in protocol.chosen_metrics():
        why = _impossible(name, classes, network)
        if not why:
            names.append(name)
        elif protocol.strict:
            raise ConfigError(f"--metrics {name}: {why}")
        else:
            notes.append(f"{name} is left out: {why}")
    return names, notes


def check_samples(asked: Comparison, reals: int, available: int | None = None) -> None:
    """Raises ConfigError where there are too few reals, or fakes, for what is asked."""
    samples = asked.samples
    if available is not None and samples is not None and samples > available:
        raise ConfigError(f"--samples {samples}: there are {available} fakes")
    if reals < 4:
        raise ConfigError(f"there are {reals} reals: must be at least 4")
    paired = [name for name in asked.chosen_metrics() if METRICS[name].paired]
    if samples is not None and samples > reals and paired:
        raise ConfigError(
            f"--samples {samples}: {', '.join(paired)} needs as many reals, and there"
            f" are {reals}; ask for {reals}, or leave it out of --metrics"
        )


def evaluated_weights(protocol: Protocol, config: Config) -> dict[str, int | None]:
    """Name -> index of the average, or None for the raw weights.

    Raises:
      ConfigError: the run has no such average.
    """
    averages = {f"ema {decay}": i for i, decay in enumerate(config.ema.decays)}
    everything: dict[str, int | None] = {"raw": None, **averages}
    names = list(everything)
    known = {"raw": names[:1], "both": names[:2], "all": names}
    if averages:
        known["ema"] = names[1:2]
    known |= {name.removeprefix("ema "): [name] for name in averages}
    if protocol.weights not in known:
        raise ConfigError(
            f"--weights {protocol.weights}: unknown; there are {', '.join(known)}"
        )
    return {name: everything[name] for name in known[protocol.weights]}


def _impossible(name: str, classes: int, network: FeatureNetwork) -> str:
    metric = METRICS[name]
    if metric.labelled and not classes:
        return "there are no classes"
    if metric.logits == "classes" and not network.has_classes:
        return f"the features {network.name} have no classes"
    if metric.logits == "labels" and not network.reads_labels:
        return f"the features {network.name} do not tell the classes of the data"
    return ""


def _names(flag: str, asked: str, known: Iterable[str]) -> tuple[str, ...]:
    if asked == "all":
        return tuple(known)
    names = tuple(dict.fromkeys(name.strip() for name in asked.split(",")))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"--{flag} {','.join(unknown)}: unknown; there are {', '.join(known)}"
        )
    return names
