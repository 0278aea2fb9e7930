"""Finds a diverging run from the scalars of each step. Pure: numbers in, findings out.

Each threshold, and the worst value that lasted as long in 2,000 steps of
configs/digits.py with three seeds (benchmarks/results/monitor.txt; docs/reliability.md
also has the runs that do diverge):

  share of saturated logits, 50 steps                0.98    0.20
  mean logit, 1 step                                 1000    7.3
  diversity of fakes over that of reals, 20 steps    0.1     0.82
  gradient norm over its running median, 3 steps     100     4.7
  gradient norm, 20 steps                            1e-6    0.59
  relative error of sigma, 2 measurements            0.5     0.18
"""

from __future__ import annotations

import collections
import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

from sagan.config.schema import ConfigError

Values = Mapping[str, float]
Past = Mapping[str, Sequence[float]]

PLAYERS = {"d": "the discriminator", "g": "the generator"}
MUST_BE_FINITE = tuple(
    f"{player}_{value}"
    for value in ("loss", "grad_norm", "weight_norm")
    for player in PLAYERS
)
# indices of the first non-finite leaf, or -1, in the order in which a step computes
# them; a state is the one after the step
NONFINITE_LEAF = tuple(
    f"nonfinite/{player}_{part}" for player in PLAYERS for part in ("gradient", "state")
)
# the scalars needed at every step, logged or not
NEEDED = (
    *MUST_BE_FINITE,
    *NONFINITE_LEAF,
    *("d_real", "d_fake", "d_saturated", "real_diversity", "fake_diversity"),
)

SATURATION = 0.98  # share of saturated logits
LARGE_LOGIT = 1000.0  # mean logit, of either sign
COLLAPSE = 0.1  # diversity of generated images over that of real ones
EXPLOSION = 100.0  # gradient norm over its running median
SMALL_NORM = 0.01  # a smaller median counts as this
VANISHED = 1e-6  # gradient norm
SIGMA_ERROR = 0.5  # true top singular value over the estimate, minus 1
MEMORY = 100  # steps of the running median


class Diverged(FloatingPointError):
    """Training cannot go on: a value is not finite, or all rollbacks are used up.

    Attributes:
      step: The first step that shows it.
      name: One of MUST_BE_FINITE, or a finding's name.
    """

    def __init__(self, step: int, name: str, message: str):
        super().__init__(f"step {step}: {message}")
        self.step = step
        self.name = name


class Finding(NamedTuple):
    """One thing that is wrong, in one line.

    Attributes:
      name: A name in CHECKS, or "nonfinite".
      since: The first step that shows it.
      message: The value, what is normal, and what may help.
    """

    name: str
    since: int
    message: str


class Check(NamedTuple):
    """A way in which a GAN's training fails.

    Attributes:
      needs: Scalars without which a step says nothing either way.
      lasts: Number of such steps in a row that make a finding.
      message: (values, values of earlier steps) -> what is wrong, or None.
      rolls_back: Whether `run.on_divergence rollback` goes back for it.
    """

    needs: tuple[str, ...]
    lasts: int
    message: Callable[[Values, Past], str | None]
    rolls_back: bool = True


def first_not_finite(values: Values) -> tuple[str, str] | None:
    """The first of MUST_BE_FINITE that is not, and a message; None if all are."""
    for name in MUST_BE_FINITE:
        if not math.isfinite(values.get(name, 0.0)):
            return name, f"{name} is {values[name]}: {PLAYERS[name[0]]} diverged"
    return None


@final
class Detector:
    """Turns the scalars of every step into findings.

    They depend on the scalars seen so far alone, which are equal in every process, so
    all processes find the same.
    """

    def __init__(self, leaf_names: Mapping[str, list[str]], memory: Any = None):
        """Starts with the memory of another, or an empty one.

        Args:
          leaf_names: For each of NONFINITE_LEAF the paths that it is an index into.
          memory: See `memory`.
        """
        self._leaf_names = leaf_names
        self._past = collections.defaultdict[str, collections.deque[float]](
            lambda: collections.deque(maxlen=MEMORY)
        )
        self._streaks: dict[str, tuple[int, int]] = {}  # first step, and length
        if memory is None:
            return
        try:
            for name, values in memory["past"].items():
                self._past[name].extend(map(float, values))
            for name, (since, length) in memory["streaks"].items():
                self._streaks[name] = int(since), int(length)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ConfigError(
                "the checkpoint's memory of the monitor is not as it was written:"
                f" {error}; move this checkpoint away"
            ) from error

    @property
    def memory(self) -> dict[str, Any]:
        """JSON values from which another detector goes on as this one would."""
        past = {name: list(values) for name, values in self._past.items()}
        return {"past": past, "streaks": dict(self._streaks)}

    def examine(self, step: int, values: Values) -> list[Finding]:
        """Findings that this step completes.

        Args:
          step: Rises by one from call to call.
          values: Those in NEEDED, and at some steps the errors of sigma.
        """
        results = [("nonfinite", self._nonfinite(values), 1)]
        for name, check in CHECKS.items():
            if all(need in values for need in check.needs):
                results.append((name, check.message(values, self._past), check.lasts))
        findings = []
        for name, message, lasts in results:
            if message is None:
                self._streaks.pop(name, None)
                continue
            since, length = self._streaks.get(name, (step, 0))
            self._streaks[name] = since, length + 1
            if length + 1 == lasts:
                findings.append(Finding(name, since, message))
        for player in PLAYERS:
            if (name := f"{player}_grad_norm") in values:
                self._past[name].append(values[name])
        return findings

    def _nonfinite(self, values: Values) -> str | None:
        parts = []
        if bad := first_not_finite(values):
            parts.append(bad[1])
        for name in NONFINITE_LEAF:
            if (index := int(values.get(name, -1))) >= 0:
                leaf = self._leaf_names[name][index]
                parts.append(f"the first leaf that is not finite is {leaf}")
                break
        return "; ".join(parts) or None


def growth(player: str, values: Values, past: Past) -> float | None:
    """A gradient norm over its running median; None while there are too few."""
    name = f"{player}_grad_norm"
    if len(past[name]) < MEMORY // 2:
        return None
    return values[name] / max(statistics.median(past[name]), SMALL_NORM)


def _saturation(values: Values, past: Past) -> str | None:
    if not values["d_saturated"] >= SATURATION:
        return None
    gap = values["d_real"] - values["d_fake"]
    return (
        f"the discriminator has won: {values['d_saturated']:.0%} of its logits are"
        f" saturated (finding from {SATURATION:.0%}), reals {gap:.3g} above fakes;"
        " lower optim.d_lr"
    )


def _diverging_logits(values: Values, past: Past) -> str | None:
    real, fake = values["d_real"], values["d_fake"]
    if not max(abs(real), abs(fake)) > LARGE_LOGIT:
        return None
    return (
        f"the discriminator diverges: its mean logits are {real:.3g} for reals and"
        f" {fake:.3g} for fakes (finding from {LARGE_LOGIT:g}); lower optim.d_lr"
    )


def _mode_collapse(values: Values, past: Past) -> str | None:
    fake, real = values["fake_diversity"], values["real_diversity"]
    if not fake < COLLAPSE * real:
        return None
    return (
        f"the generator has collapsed: its pixels vary by {fake:.2g} over a batch, real"
        f" ones by {real:.2g} (finding below {COLLAPSE:.0%} of that); lower optim.g_lr,"
        " or optim.d_lr if the discriminator has won"
    )


def _exploding_gradients(player: str, values: Values, past: Past) -> str | None:
    ratio = growth(player, values, past)
    if ratio is None or not ratio > EXPLOSION:
        return None
    name = f"{player}_grad_norm"
    median = statistics.median(past[name])
    return (
        f"the gradient of {PLAYERS[player]} explodes: its norm is {values[name]:.3g},"
        f" {median:.3g} before (finding from {EXPLOSION:g} times that); lower"
        f" optim.{player}_lr, or set optim.clip"
    )


def _vanishing_gradients(player: str, values: Values, past: Past) -> str | None:
    norm = values[f"{player}_grad_norm"]
    if not norm <= VANISHED:
        return None
    return (
        f"the gradient of {PLAYERS[player]} has vanished: its norm is {norm:.2g}"
        f" (finding up to {VANISHED:g}); its units are dead, or the other player leaves"
        " it nothing to learn: lower both rates"
    )


def _spectral_norm_lag(player: str, values: Values, past: Past) -> str | None:
    top = f"sigma_error/{player}_max"
    if not values[top] >= SIGMA_ERROR:
        return None
    inner = {n: v for n, v in values.items() if n.startswith(f"sigma_error/{player}/")}
    layer = max(inner, key=lambda name: inner[name], default=top)
    return (
        f"spectral normalisation of {layer.removeprefix('sigma_error/')} lags: the"
        f" top singular value is {1 + values[top]:.3g} times its estimate (finding from"
        f" {1 + SIGMA_ERROR:g}); weights move faster than one power iteration a step"
        f" can follow: lower optim.{player}_lr"
    )


def _checks() -> dict[str, Check]:
    checks = {
        "discriminator_saturation": Check(
            ("d_saturated", "d_real", "d_fake"), 50, _saturation
        ),
        "diverging_logits": Check(("d_real", "d_fake"), 1, _diverging_logits),
        "mode_collapse": Check(
            ("fake_diversity", "real_diversity"), 20, _mode_collapse
        ),
    }
    for player in PLAYERS:
        norm, error = (f"{player}_grad_norm",), (f"sigma_error/{player}_max",)
        exploding, vanishing, lag = (
            functools.partial(message, player)
            for message in (
                _exploding_gradients,
                _vanishing_gradients,
                _spectral_norm_lag,
            )
        )
        checks |= {
            f"{player}_exploding_gradients": Check(norm, 3, exploding),
            f"{player}_vanishing_gradients": Check(norm, 20, vanishing),
            f"{player}_spectral_norm_lag": Check(error, 2, lag, rolls_back=False),
        }
    return checks


CHECKS = _checks()
