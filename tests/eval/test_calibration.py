"""What `bench/calibration.py` measures at length, in short: bounds are those of the simulation's own error, and a little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from costar.bench import calibration
from costar.eval.randomization import max_t_p

WORLDS = 500


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def around(share: float, worlds: int) -> float:
    """Three standard errors of a share of simulated worlds."""
    return 3 * (share * (1 - share) / worlds) ** 0.5


@pytest.mark.parametrize("kind", ["normal", "share 0.3", "share 0.05", "unequal clusters"])
@pytest.mark.parametrize("held_out", [0, 60])
def test_intervals_cover_from_ten_clusters_on(kind: str, held_out: int) -> None:
    for clusters in (10,) if held_out else (10, 40):
        found = calibration.coverage(kind, clusters, held_out, WORLDS, rng(1))
        assert found["ours"] >= 0.935 - around(0.95, WORLDS)
        if kind in ("normal", "unequal clusters"):
            assert found["ours"] <= 0.965 + around(0.95, WORLDS)


def test_without_the_correction_ten_clusters_are_too_few() -> None:
    found = calibration.coverage("normal", 10, 0, WORLDS, rng(2))
    assert found["plain BCa"] < 0.93
    assert found["percentile"] < 0.93


def test_skewed_values_are_covered_better_than_by_percentiles_but_not_nominally() -> None:
    for clusters in (10, 40):
        found = calibration.coverage("lognormal", clusters, 0, WORLDS, rng(3))
        assert found["percentile"] < found["ours"] < 0.95
        assert found["ours"] > 0.84


@pytest.mark.parametrize("held_out", [0, 60])
def test_bands_cover_all_levels_at_once_and_single_intervals_do_not(held_out: int) -> None:
    found = calibration.band_coverage("normal", 20, held_out, 250, rng(4))
    assert abs(found["band"] - 0.95) <= 0.015 + around(0.95, 250)
    assert found["single intervals"] < 0.88


@pytest.mark.parametrize("draws", [3, 5])
def test_where_effects_vary_by_draw_only_the_interval_over_draws_covers(draws: int) -> None:
    found = calibration.draws_coverage(draws, 30, 0.5, WORLDS, rng(5))
    assert abs(found["over draws"] - 0.95) <= around(0.95, WORLDS)
    assert found["given these runs"] < 0.75
    found = calibration.draws_coverage(draws, 30, 0.0, WORLDS, rng(6))
    assert abs(found["given these runs"] - 0.95) <= 0.015 + around(0.95, WORLDS)


@pytest.mark.parametrize("kind", list(calibration.KINDS))
def test_sign_flips_find_five_percent_of_nothing(kind: str) -> None:
    for clusters in (12, 40):
        found = calibration.pairs_found(kind, clusters, WORLDS, rng(7))
        assert found <= 0.05 + around(0.05, WORLDS)
        if not kind.startswith("share"):  # exact tests of few pairs cannot reach 5 %
            assert found >= 0.05 - around(0.05, WORLDS)


@pytest.mark.parametrize(
    ("clusters", "effects"),
    [
        ("equal", {16: 20.0, 4: -20.0}),
        pytest.param("unequal", {}, marks=pytest.mark.slow),
        pytest.param("unequal", {16: 20.0}, marks=pytest.mark.slow),
    ],
)
def test_levels_without_an_effect_are_found_in_five_percent_of_families_whatever_others_have(
    clusters: str, effects: dict[int, float]
) -> None:
    assignment = calibration.EQUAL if clusters == "equal" else calibration.UNEQUAL
    found = calibration.labels_found(assignment, 25, 20, rng(8), effects)
    for share in found.values():
        assert share <= 0.05 + around(0.05, 500)  # columns of one redraw share its labels
    assert found["label permutation"] >= 0.02


def test_a_large_effect_of_one_level_neither_hides_nor_feigns_others() -> None:
    """Were all labels exchanged at once, the values of the highest level would drown the smaller effect."""
    generator = rng(9)
    assignment = calibration.EQUAL
    drawn = assignment.drawn(1)
    own = generator.normal(size=(len(drawn), 50)) + np.where(drawn == 16, 30.0, 0.0)[:, None]
    own += np.where(drawn == 4, 1.5, 0.0)[:, None]
    groups = assignment.grouped(own, drawn)
    held_out = groups.pop(0)
    adjusted = np.array(max_t_p(list(groups.values()), held_out, ("t",)))
    assert (adjusted[2] <= 0.05).all()
    assert (adjusted[1] <= 0.05).mean() >= 0.8
    assert (adjusted[0] <= 0.05).mean() <= 0.15


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_paired_levels_without_an_effect_are_found_in_five_percent_of_families(draws: int, shift: float) -> None:
    for share in calibration.flips_found(15, 500, draws, shift, rng(10)).values():
        assert abs(share - 0.05) <= 0.005 + around(0.05, 500)


def test_an_effect_at_the_margin_is_found_equivalent_in_five_percent() -> None:
    for clusters in (10, 40):
        assert abs(calibration.equivalence_found(clusters, 4000, rng(11)) - 0.05) <= around(0.05, 4000)


def test_levels_drawn_again_over_runs_that_read_nothing_find_nothing(built: Path) -> None:
    """Real scores of a control: the suite's own assignment, drawn again under other numbers."""
    found = calibration.null_suite(built, 20)
    assert {name.split()[1] for name in found} == {"passages", "quizzes", "passwords"}
    for figures in found.values():
        assert figures["measures"] >= 3
        assert figures["label permutation"] <= 0.05 + 3 * max(figures["standard error"], 0.005)
        assert figures["any level, max-T"] <= 0.05 + 4 * max(figures["standard error"], 0.01)
    assert np.mean([figures["label permutation"] for figures in found.values()]) >= 0.015
