"""The protocol of an evaluation: every choice that decides a number."""

import dataclasses
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from sagan.config.schema import Config, ConfigError
from sagan.config.validation import is_bucket
from sagan.metrics import METRICS
from sagan.metrics.features import FeatureNetwork
from sagan.metrics.resize import RESIZES

_FILES = ("weights_file", "reference")
BATCH_NORM = ("moving", "standing", "batch")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Choices of a comparison of fakes with reals, wherever they come from."""

    metrics: str = "all"
    """Names separated by commas: fid, fid_infinity, kid, is, prdc, ifid, accuracy, cas,
    memorisation. all: all that data and features allow; all,-cas: all but cas."""
    samples: int | None = None
    """Number of fakes. Default: 50,000, or the number of reals if that is smaller; with
    the embedded networks half the number of reals, so that the baseline has as many."""
    reals: int = 50_000
    """Number of reals at most, in an order that never changes; 0: all."""
    features: str = "auto"
    """inception, efflite0, classifier, rotation, or module:function, your own function
    from uint8 images [n h w c] to vectors [n d]. auto: inception for colour images if
    its weights are given or cached, else classifier, or rotation without labels."""
    weights_file: Path | None = None
    """Weights of inception or efflite0: the published .pth."""
    resize: str = "tf1"
    """Resize before inception and efflite0: tf1, as in the original FID, or clean
    (antialiased)."""
    splits: int = 10
    """Number of splits of the Inception Score."""

    @property
    def strict(self) -> bool:
        """Whether each metric was requested by name."""
        return not self.metrics.startswith("all")

    def chosen_metrics(self) -> tuple[str, ...]:
        """Names of the chosen metrics."""
        if self.strict:
            return choose_names("metrics", self.metrics, METRICS)
        without = [name.strip() for name in self.metrics.split(",")[1:]]
        if wrong := [name for name in without if name[:1] != "-"]:
            raise ConfigError(f"--metrics all,{wrong[0]}: after all, only -NAME")
        names = ",".join(name[1:] for name in without)
        dropped = choose_names("metrics", names, METRICS) if without else ()
        return tuple(name for name in METRICS if name not in dropped)


@dataclasses.dataclass(frozen=True)
class Protocol(Comparison):
    """Choices of an evaluation of a run: numbers of equal protocols are comparable."""

    reference: Path | None = None
    """Statistics of the reals, an .npz file with mu and sigma (also of TTUR, clean-fid,
    ADM or EDM), in place of their images."""
    split: str = ""
    """Split of the reals; empty: the one that the run was trained on."""
    weights: str = "both"
    """Weights of the generator: raw, ema (the first average), the decay of an average,
    both (raw and ema), or all."""
    batch_norm: str = "moving,standing"
    """Batch statistics, separated by commas, or all: moving (the running averages),
    standing (recomputed with these weights), batch (of each generated batch)."""
    labels: Literal["auto", "uniform", "real", "random"] = "auto"
    """Labels of the fakes: uniform (equal shares of all classes), real (those of the
    reals), random (drawn evenly from all classes, for an unbiased KID), or auto: real
    if the smallest class has less than 4/5 of the largest, else uniform."""
    truncation: float = 0.0
    """Draw latents beyond this again; 0: no truncation."""
    seed: int = 0
    """Seed of the latents."""
    seeds: int = 1
    """Number of evaluations, with seeds from `seed` on: mean and standard deviation."""

    def every_seed(self) -> range:
        """The seed of each evaluation."""
        return range(self.seed, self.seed + self.seeds)

    def chosen_batch_norm(self) -> tuple[str, ...]:
        """Names of the chosen batch statistics."""
        return choose_names("batch-norm", self.batch_norm, BATCH_NORM)


def options(protocol: Comparison) -> str:
    """The options of a command line, in any folder, that give this protocol."""
    values = {
        field.name: getattr(protocol, field.name)
        for field in dataclasses.fields(protocol)
        if getattr(protocol, field.name) != field.default
    }
    return " ".join(
        option(name, absolute(str(value)) if isinstance(value, Path) else value)
        for name, value in values.items()
    )


def option(name: str, value: Any) -> str:
    """An option of a command line for a shell."""
    return f"--{name.replace('_', '-')} {shlex.quote(str(value))}"


def absolute(path: str) -> str:
    """A path that means the same in any folder; a bucket's stays as it is."""
    return path if is_bucket(path) else os.path.abspath(path)


def protocol_to_json(protocol: Protocol) -> dict[str, Any]:
    """The fields as JSON values; protocol_from_json is the inverse."""
    values = dataclasses.asdict(protocol)
    files = {name: values[name] for name in _FILES}
    paths = {k: str(file.resolve()) if file else None for k, file in files.items()}
    return values | paths


def protocol_from_json(values: Any) -> Protocol:
    """The inverse of protocol_to_json, for values from an untrusted file.

    Raises:
      ConfigError: They are not the fields of a valid protocol.
    """
    try:
        files = {name: values.get(name) for name in _FILES}
        changed = {name: Path(file) if file else None for name, file in files.items()}
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


def check_protocol(protocol: Comparison) -> None:
    """Raises ConfigError listing every invalid value and what is allowed."""
    problems = []
    for name in ("chosen_batch_norm", "chosen_metrics"):
        try:
            getattr(protocol, name, tuple)()
        except ConfigError as error:
            problems.append(str(error))
    least = {"samples": 2, "reals": 0, "splits": 1, "seeds": 1, "seed": 0}
    for name, minimum in (least | {"truncation": 0}).items():
        value = getattr(protocol, name, None)
        if value is not None and not value >= minimum:
            problems.append(f"--{name} {value}: must be at least {minimum}")
    if isinstance(protocol, Protocol) and protocol.seed + protocol.seeds > 2**32:
        problems.append(f"--seed {protocol.seed}: must be below 2^32")
    if isinstance(protocol, Protocol) and protocol.reference and protocol.split:
        problems.append(
            f"--split {protocol.split}: --reference has the reals; leave one out"
        )
    if protocol.resize not in RESIZES:
        known = ", ".join(RESIZES)
        problems.append(f"--resize {protocol.resize}: unknown; there are {known}")
    if problems:
        raise ConfigError("\n".join(problems))


def check_labels(protocol: Comparison, classes: int | None) -> None:
    """Raises ConfigError if a requested metric needs classes and there are 0.

    None: their number is not known yet.
    """
    names = protocol.chosen_metrics() if protocol.strict and classes == 0 else ()
    if impossible := [name for name in names if METRICS[name].labelled]:
        raise ConfigError(
            f"--metrics {','.join(impossible)}: need classes, and there are none"
            " (the run, or the images, are unconditional)"
        )


def possible_metrics(
    protocol: Comparison,
    classes: int,
    network: FeatureNetwork,
    *,
    images: bool,
    unseen: bool,
) -> tuple[list[str], list[str]]:
    """The metrics to compute, and a note for each that "all" leaves out.

    Args:
      protocol: Its metrics.
      classes: Number of classes; 0: there are none, or no labels of the fakes.
      network: The feature network.
      images: Whether there are images of the reals, not only their statistics.
      unseen: Whether the reals are all training images, and there are others.

    Raises:
      ConfigError: A metric that was requested by name is not defined here.
    """
    names, notes = [], []
    for name in protocol.chosen_metrics():
        metric = METRICS[name]
        why = ""
        if metric.reads_reals == "images" and not images:
            why = "it needs images of the reals, and there are only their statistics"
        elif metric.reads_reals == "unseen" and not unseen:
            why = "it needs a test split, and all training images as the reals"
        why = why or _impossible(name, classes, network)
        if not why:
            names.append(name)
        elif protocol.strict:
            raise ConfigError(f"--metrics {name}: {why}")
        else:
            notes.append(f"{name} is left out: {why}")
    return names, notes


def check_samples(
    protocol: Comparison, reals: int, available: int | None, *, images: bool = True
) -> None:
    """Raises ConfigError if there are too few reals, or too few fakes available.

    Without images of the reals no metric needs as many of them as of the fakes.
    """
    samples = protocol.samples
    if available is not None and samples is not None and samples > available:
        raise ConfigError(f"--samples {samples}: there are {available} fakes")
    if reals < 4:
        raise ConfigError(f"there are {reals} reals: must be at least 4")
    paired = [name for name in protocol.chosen_metrics() if METRICS[name].paired]
    if images and samples is not None and samples > reals and paired:
        raise ConfigError(
            f"--samples {samples}: {', '.join(paired)} needs as many reals, and there"
            f" are {reals}; ask for {reals}, or leave it out of --metrics"
        )


def evaluated_weights(protocol: Protocol, config: Config) -> dict[str, int | None]:
    """Index of the average for each name of weights; None for the raw weights.

    Raises:
      ConfigError: The run has no such average.
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


def choose_names(flag: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Names separated by commas, or "all"; an unknown one is a ConfigError."""
    if text == "all":
        return tuple(known)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"--{flag} {','.join(unknown)}: unknown; there are {', '.join(known)}"
        )
    return names
