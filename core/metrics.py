"""What is known of a metric: its unit, where perfect recall lies, what of it may be said."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """`falls`: it is lower of a record that is known better. `perfect`: its value where a record is known by heart, None where
    that has no end. `binary`: of one record it is 0 or 1. `bounded`: equal values of some records bound what those of others
    may be, as shares do. `margin`: differences below it count as none, NaN where the suite has to say so.
    """

    unit: str
    falls: bool = False
    perfect: float | None = None
    binary: bool = False
    bounded: bool = True
    margin: float = math.nan


METRICS = {
    "nll_token": Metric(unit="nats per token", falls=True, perfect=0.0, bounded=False, margin=0.05),
    "ll_byte": Metric(unit="nats per byte", perfect=0.0, bounded=False),
    "margin": Metric(unit="nats", bounded=False, margin=0.2),
    "exposure_bits": Metric(unit="bits", bounded=False, margin=0.5),
    "rank": Metric(unit="rank", falls=True, bounded=False),
    "queries_log10": Metric(unit="log10 queries", falls=True, bounded=False),
    "attack_score": Metric(unit="attack score", bounded=False),
    "longest_match": Metric(unit="longest match", bounded=False),
    "accuracy": Metric(unit="accuracy", perfect=1.0, binary=True),
    "extracted": Metric(unit="extracted", perfect=1.0, binary=True),
    "exact_fraction": Metric(unit="exact fraction", perfect=1.0),
}


def metric_of(name: str) -> Metric:
    """The metric of a name; one that a user's probe adds is taken for a share of which nothing else is known."""
    return METRICS.get(name) or Metric(unit=name.replace("_", " "))
