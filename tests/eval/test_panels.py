from __future__ import annotations

import pytest
from costar.eval.panels import half_dose_text, number
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
