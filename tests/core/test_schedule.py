from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from costar.core.design import TrainDesign
from costar.core.schedule import lr_at, shared_rates
from hypothesis import given
from hypothesis import strategies as st

WSD = TrainDesign(
    steps=100,
    batch=8,
    optimizer="adamw",
    lr=1e-2,
    lr_end=0.0,
    schedule="wsd",
    warmup=10,
    decay=20,
    weight_decay=0.1,
    every=5,
    also=(),
)


@st.composite
def designs(draw: st.DrawFn) -> TrainDesign:
    """Designs that have much in common, so that they share rates often."""
    steps = draw(st.integers(1, 40))
    schedule = draw(st.sampled_from(["constant", "cosine", "wsd"]))
    decay = draw(st.integers(1, steps)) if schedule == "wsd" else 0
    warmup = draw(st.integers(0, min(3, steps - decay)))
    lr, lr_end = draw(st.sampled_from([1e-2, 2e-2])), draw(st.sampled_from([0.0, 1e-3, 1e-2]))
    return replace(WSD, steps=steps, schedule=schedule, decay=decay, warmup=warmup, lr=lr, lr_end=lr_end)


def test_wsd_warms_up_stays_and_comes_down_by_equal_parts() -> None:
    rates = [lr_at(WSD, step) for step in range(WSD.steps)]
    assert rates[9:80] == [1e-2] * 71
    parts = {round(before - after, 12) for before, after in pairwise(rates[79:])}
    assert parts == {round(1e-2 / 21, 12)}
    assert 0 < rates[-1] == min(rates[10:])


@given(designs())
def test_rates_are_positive_and_fall_after_the_warm_up(design: TrainDesign) -> None:
    rates = [lr_at(design, step) for step in range(design.steps)]
    after = rates[design.warmup :]
    assert all(0 < rate <= design.lr * (1 + 1e-12) for rate in rates)
    assert all(later <= earlier for earlier, later in pairwise(after))


@given(designs(), designs())
def test_shared_rates_are_the_common_prefix_of_the_rates(a: TrainDesign, b: TrainDesign) -> None:
    least = min(a.steps, b.steps)
    expected = next((step for step in range(least) if lr_at(a, step) != lr_at(b, step)), least)
    assert shared_rates(a, b) == shared_rates(b, a) == expected


def test_budgets_share_a_constant_rate_wholly_and_wsd_up_to_the_earlier_decay() -> None:
    assert shared_rates(WSD, replace(WSD, steps=500, decay=50)) == 80
    constant = replace(WSD, schedule="constant", decay=0)
    assert shared_rates(constant, replace(constant, steps=500)) == 100
    assert shared_rates(constant, WSD) == 80
    cosine = replace(WSD, schedule="cosine", decay=0)
    assert shared_rates(cosine, replace(cosine, steps=500)) == WSD.warmup + 1  # both begin at lr itself
