"""What a step shows of a training that goes wrong, and from which number on.

Each threshold, and the worst that held as long in 2,000 steps of configs/digits.py with
three seeds (benchmarks/results/doctor.txt; docs/reliability.md has the sick runs too):

  saturated logits, 50 steps               0.98    0.20
  mean logit, 1 step                       1000    7.3
  diversity of fakes over reals, 20 steps  0.1     0.82
  gradient norm over median, 3 steps       100     4.7
  gradient norm, 20 steps                  1e-6    0.59
  error of sigma, 2 looks                  0.5     0.18
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sagan.training.logger import PLAYERS

Values = Mapping[str, float]
Past = Mapping[str, Sequence[float]]

WON = 0.98  # share of saturated logits
LOUD = 1000.0  # mean logit, up or down
ALIKE = 0.1  # diversity of generated images over that of real ones
EXPLODED = 100.0  # gradient norm over its running median
SMALL = 0.01  # gradient norm: a median below counts as this
STILL = 1e-6  # gradient norm
SIGMA_OFF = 0.5  # true top singular value over the estimate, minus 1
MEMORY = 100  # steps of a running median


class Symptom(NamedTuple):
    """Something that a step may show.

    Attributes:
      needs: values without which a step speaks neither for it nor against it.
      lasts: how many such steps in a row make it a finding.
      sign: (values, values of the steps before) -> what is wrong, or None.
      goes_back: whether `run.on_divergence rollback` goes back for it.
    """

    needs: tuple[str, ...]
    lasts: int
    sign: Callable[[Values, Past], str | None]
    goes_back: bool = True


def _won(values: Values, past: Past) -> str | None:
    if not values["d_saturated"] >= WON:
        return None
    gap = values["d_real"] - values["d_fake"]
    return (
        f"the discriminator has won: {values['d_saturated']:.0%} of its logits are"
        f" saturated (finding from {WON:.0%}), reals {gap:.3g} above fakes; lower"
        " optim.d_lr"
    )


def _loud(values: Values, past: Past) -> str | None:
    real, fake = values["d_real"], values["d_fake"]
    if not max(abs(real), abs(fake)) > LOUD:
        return None
    return (
        f"the discriminator diverges: its mean logits are {real:.3g} of reals and"
        f" {fake:.3g} of fakes (finding from {LOUD:g}); lower optim.d_lr"
    )


def _collapsed(values: Values, past: Past) -> str | None:
    fake, real = values["fake_diversity"], values["real_diversity"]
    if not fake < ALIKE * real:
        return None
    return (
        f"the generator has collapsed: its images differ by {fake:.2g} a pixel, real"
        f" ones by {real:.2g} (finding below {ALIKE:.0%} of it); lower optim.g_lr, or"
        " optim.d_lr if the discriminator has won"
    )


def growth(player: str, values: Values, past: Past) -> float | None:
    """A gradient norm over the median of those before; None: they are too few."""
    name = f"{player}_grad_norm"
    if len(past[name]) < MEMORY // 2:
        return None
    return values[name] / max(statistics.median(past[name]), SMALL)


def _exploded(player: str, values: Values, past: Past) -> str | None:
    ratio = growth(player, values, past)
    if ratio is None or not ratio > EXPLODED:
        return None
    name = f"{player}_grad_norm"
    median = statistics.median(past[name])
    return (
        f"the gradient of {PLAYERS[player]} explodes: its norm is {values[name]:.3g},"
        f" {median:.3g} before (finding from {EXPLODED:g} times that); lower"
        f" optim.{player}_lr, or set optim.clip"
    )


def _still(player: str, values: Values, past: Past) -> str | None:
    name = f"{player}_grad_norm"
    if not values[name] <= STILL:
        return None
    return (
        f"{PLAYERS[player]} stands still: the norm of its gradient is"
        f" {values[name]:.2g} (finding up to {STILL:g}); its units are dead, or the"
        " other player gives it nothing to learn: lower both rates"
    )


def _sigma_off(player: str, values: Values, past: Past) -> str | None:
    top = f"sigma_error/{player}_max"
    if not values[top] >= SIGMA_OFF:
        return None
    inner = {n: v for n, v in values.items() if n.startswith(f"sigma_error/{player}/")}
    layer = max(inner, key=lambda name: inner[name], default=top)
    return (
        f"spectral normalisation of {layer.removeprefix('sigma_error/')} is off: the"
        f" top singular value is {1 + values[top]:.3g} times its estimate (finding from"
        f" {1 + SIGMA_OFF:g}); weights move faster than one power iteration a step"
        f" follows: lower optim.{player}_lr"
    )


def _symptoms() -> dict[str, Symptom]:
    every = {
        "d_won": Symptom(("d_saturated", "d_real", "d_fake"), 50, _won),
        "d_loud": Symptom(("d_real", "d_fake"), 1, _loud),
        "g_collapsed": Symptom(("fake_diversity", "real_diversity"), 20, _collapsed),
    }
    for player in PLAYERS:
        norm, error = (f"{player}_grad_norm",), (f"sigma_error/{player}_max",)
        for name, lasts, needs, sign in (
            ("exploded", 3, norm, _exploded),
            ("still", 20, norm, _still),
            ("sigma", 2, error, _sigma_off),
        ):
            sign = functools.partial(sign, player)
            back = sign.func is not _sigma_off
            every[f"{player}_{name}"] = Symptom(needs, lasts, sign, goes_back=back)
    return every


SYMPTOMS = _symptoms()
