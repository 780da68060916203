from __future__ import annotations

import math

from costar.core.analysis import NLL, SECONDARY
from costar.core.metrics import METRICS, metric_of


def test_every_primary_measure_has_a_margin_below_which_differences_count_as_none() -> None:
    for _, _, metric in (NLL, *SECONDARY.values()):
        assert metric_of(metric).margin > 0


def test_a_metric_that_is_0_or_1_of_a_record_is_perfect_at_1_and_bounded() -> None:
    binary = [metric for metric in METRICS.values() if metric.binary]
    assert binary
    assert all(metric.perfect == 1 and metric.bounded for metric in binary)


def test_a_metric_of_a_users_probe_has_its_name_as_unit_and_no_margin() -> None:
    own = metric_of("words_kept")
    assert own.unit == "words kept"
    assert own.bounded
    assert math.isnan(own.margin)
