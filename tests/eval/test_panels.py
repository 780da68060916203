from __future__ import annotations

import pytest
from costar.eval.forest import _is_flagged, sizes_text
from costar.eval.panels import _bounds, band_text, half_dose_text, number
from costar.eval.paths import cell_place

FIT = {"half_dose": 9.31, "ci_low": 5.12, "ci_high": 14.0, "censored": "", "method": "Hill"}


def test_a_half_dose_stands_with_its_interval_and_a_censored_one_with_its_bound() -> None:
    assert half_dose_text(FIT) == "half-dose 9.31 copies [5.12, 14]"
    assert half_dose_text(FIT | {"ci_low": None, "ci_high": None}) == "half-dose 9.31 copies"
    assert half_dose_text(FIT | {"half_dose": None, "censored": "above 256"}) == "half-dose: above 256"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.98066, "−0.981"),
        (1234567.0, "1,234,567"),
        (0.0000123, "1.2e−05"),
        (float("nan"), "not a number"),
    ],
)
def test_numbers_have_three_digits_and_a_real_minus(value: float, text: str) -> None:
    assert number(value) == text


def test_cells_of_phases_stand_in_the_order_of_training() -> None:
    cells = ["phase=1/2-3/4", "phase=3/4-1", "phase=0-1/4", "phase=1/4-1/2", "phase=3/4-1 − 0-1/4"]
    ordered = sorted(cells, key=cell_place)
    assert ordered == ["phase=0-1/4", "phase=1/4-1/2", "phase=1/2-3/4", "phase=3/4-1", "phase=3/4-1 − 0-1/4"]


@pytest.mark.parametrize(
    ("given", "method", "low", "told"),
    [
        ((-1.0, 1.0), "given these runs: BCa", -1.5, "simultaneous 95 % of treated − control, given these runs"),
        ((-1.0, 1.0), "t-interval over 3 draws", -1.5, "simultaneous 95 % of treated − control, given these runs"),
        ((-4.0, 4.0), "t-interval over 3 draws", -4.0, "95 % of treated − control at each level, over draws"),
        (
            (None, None),
            "fewer than 10 clusters: no interval",
            -1.5,
            "simultaneous 95 % of treated − control, given these runs",
        ),
    ],
)
def test_a_band_is_never_narrower_than_the_interval_over_draws(
    given: tuple[float | None, float | None], method: str, low: float, told: str
) -> None:
    row = {"n_runs": 3, "ci_low": given[0], "ci_high": given[1], "band_low": -1.5, "band_high": 1.5, "method": method}
    assert _bounds(row) == (low, -low, told)
    assert band_text([told]) == f"band: {told}"
    assert _bounds(None) == (None, None, "")


@pytest.mark.parametrize(
    ("p", "ends", "filled"),
    [(0.01, (0.2, 0.6), True), (0.01, (-0.2, 0.6), False), (0.2, (0.2, 0.6), False), (0.01, (None, None), False)],
)
def test_a_forest_fills_an_effect_only_where_p_and_interval_agree(
    p: float, ends: tuple[float | None, float | None], filled: bool
) -> None:
    assert _is_flagged({"p_adjusted": p, "p_value": p, "ci_low": ends[0], "ci_high": ends[1]}) == filled


def test_sizes_are_a_range_or_a_number_or_left_out() -> None:
    assert sizes_text([30, 9, 1200]) == "n 9 to 1,200, "
    assert sizes_text([30, 30]) == "n 30, "
    assert sizes_text([0, 0]) == ""
