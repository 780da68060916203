"""Levels by name or by the effect to be found: how many records get how many copies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

ALPHA, POWER = 0.05, 0.8
LEAST = 10  # records or clusters below which no interval is given
LEAST_DRAWS = 3  # draws from which on intervals are over draws

# Hubble's ratios (arXiv 2510.19811, recovered from its published counts): copies = share of the records. In the large
# scheme half of the records, rounded up, is held out first.
LARGE = {1: 10, 4: 10, 16: 5, 64: 2, 256: 1}
SMALL = {0: 10, 1: 10, 16: 5, 256: 2}
WIKIPEDIA = {0: 10, 1: 10, 4: 10, 16: 5, 64: 2, 256: 1}


def scheme_levels(scheme: str, count: int) -> dict[int, int]:
    """The levels of one of Hubble's three schemes over `count` records; levels that get no record are left out."""
    if scheme == "hubble-large":
        levels = {0: count - count // 2} | shares(LARGE, count // 2)
    else:
        levels = shares({"hubble-small": SMALL, "hubble-wikipedia": WIKIPEDIA}[scheme], count)
    return {level: number for level, number in levels.items() if number}


def shares(ratios: Mapping[int, int], count: int) -> dict[int, int]:
    """`count` divided in ratios, exactly: largest remainders, ties to the smaller key."""
    total = sum(ratios.values())
    exact = {key: count * ratio // total for key, ratio in ratios.items()}
    rests = sorted(ratios, key=lambda key: (-(count * ratios[key] % total), key))
    for key in rests[: count - sum(exact.values())]:
        exact[key] += 1
    return exact


def detect_levels(effect: float, copies: Sequence[int]) -> dict[int, int]:
    """The fewest records that show an effect of `effect` standard deviations at every level with 80 % power.

    The held-out group is compared with each of k levels, so it is √k times as large as they are (Dunnett 1955); then
    z² · (1/n + 1/(n·√k)) = effect², with the z of `least_effect`.
    """
    compared = len(copies)
    root = math.sqrt(compared)
    each = math.ceil((least_effect(1, 1, compared) / math.sqrt(2) / effect) ** 2 * (1 + 1 / root))
    held_out = math.ceil(each * root)
    while each > 1 and least_effect(each - 1, held_out, compared) <= effect:  # what rounding up left over
        each -= 1
    while held_out > 1 and least_effect(each, held_out - 1, compared) <= effect:
        held_out -= 1
    return {0: held_out} | dict.fromkeys(sorted(copies), each)


def least_effect(count: float, held_out: float, compared: int) -> float:
    """(z₁₋α/₂ₖ + z₀.₈) · √(1/n + 1/n₀): the strictest step of Holm's adjustment over k levels, α = 5 %."""
    normal = NormalDist()
    z = normal.inv_cdf(1 - ALPHA / (2 * compared)) + normal.inv_cdf(POWER)
    return z * math.sqrt(1 / count + 1 / held_out)
