"""Utility parity: sequences are paired, equality is told from not knowing, older logs have points only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from costar.core.parquet import write_rows
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.utility import compare, utility_effects
from costar.manifests.tables import EFFECTS, VALIDATION
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pair(difference: float, *, noise: float = 0.02, seed: int = 0, count: int = 200) -> list[Floats]:
    """Losses (treated, control) of sequences that differ far more among each other than between the runs."""
    generator = np.random.default_rng(seed)
    control = generator.normal(3.0, 0.5, count)
    return [control + difference + noise * generator.normal(size=count), control]


def test_a_small_difference_is_equivalent_and_a_large_one_is_not() -> None:
    small, large = compare([pair(0.001)], ("a",)), compare([pair(0.05)], ("a",))
    assert small["p_equivalent"] < 0.05
    assert small["ci_low"] < 0.001 < small["ci_high"]
    assert small["ci_low"] > -0.01
    assert small["ci_high"] < 0.01
    assert large["p_equivalent"] > 0.5
    assert large["p_value"] < 0.01
    assert (small["n"], small["n_clusters"]) == (200, 200)


def test_what_is_not_known_is_not_equivalent() -> None:
    assert compare([pair(0.0, noise=0.5)], ("a",))["p_equivalent"] > 0.05


def test_intervals_hold_the_difference_about_as_often_as_they_say() -> None:
    """Of 100 intervals at 95 % at least 88: fewer would come less than once in 100 times."""
    rows = [compare([pair(0.004, seed=seed, count=60)], (seed,)) for seed in range(100)]
    assert sum(row["ci_low"] <= 0.004 <= row["ci_high"] for row in rows) >= 88


def test_from_three_draws_on_runs_are_the_units() -> None:
    runs = [pair(shift, seed=seed) for seed, shift in enumerate((0.02, -0.02, 0.01))]
    two, three = compare(runs[:2], ("a",)), compare(runs, ("a",))
    assert "draws" not in two["method"]
    assert (two["ci_low"], two["ci_high"]) == (two["given_low"], two["given_high"])
    assert "over 3 draws" in three["method"]
    assert three["ci_high"] - three["ci_low"] > 5 * (three["given_high"] - three["given_low"])
    assert three["p_equivalent"] > 0.05


def test_runs_that_are_the_same_have_no_interval() -> None:
    control = pair(0.0)[1]
    row = compare([[control, control]], ("a",))
    assert (row["estimate"], row.get("ci_low"), row["method"]) == (0.0, None, "equal losses")


def test_every_pair_is_compared_at_every_step_that_both_have(built: Path) -> None:
    suite, workspace = load_suite(built / "suite.toml"), Workspace(built)
    rows = utility_effects(suite, workspace)
    assert [set(row) == set(EFFECTS.names) for row in rows] == [True] * len(rows)
    assert {row["treated"] for row in rows} == {f"{arm.name}.nano.d0" for arm in suite.arms.values() if arm.control}
    losses = {
        (row["run"], row["step"]): row["loss"]
        for path in workspace.runs.glob("*/log/validation.parquet")
        for row in pq.read_table(path, partitioning=None).to_pylist()
    }
    last = [row for row in rows if row["step"] == 96]
    for row in last:
        expected = losses[(row["treated"], 96)] - losses[(row["control"], 96)]
        assert row["estimate"] == pytest.approx(expected, abs=1e-9)
    assert any(row["ci_low"] is not None for row in last)
    shared = [row for row in rows if row["treated"].startswith("late.") and row["step"] <= 48]
    assert shared
    assert all((row["estimate"], row["method"]) == (0.0, "equal losses") for row in shared)


def test_logs_without_losses_of_sequences_have_points_only_and_damaged_ones_are_left_out(
    built_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    path = workspace.run("standard.nano.d0") / "log" / "validation.parquet"
    rows = pq.read_table(path, partitioning=None).to_pylist()
    write_rows(path, VALIDATION.remove(VALIDATION.get_field_index("losses")), rows)
    found = [row for row in utility_effects(suite, workspace) if row["step"] == 96]
    assert found
    assert all(row["ci_low"] is None and row["estimate"] is not None for row in found)
    path.write_bytes(path.read_bytes()[:-9])
    assert utility_effects(suite, workspace) == []
    assert "damaged" in capsys.readouterr().err
