from __future__ import annotations

from collections import Counter

import pytest
from costar.core.errors import CostarError
from costar.insertion.levels import Cluster, assign_levels
from hypothesis import given
from hypothesis import strategies as st

KEY = (1, 0, "p")


def clusters(count: int, strata: int = 1) -> list[Cluster]:
    return [Cluster(name=f"c{i}", stratum=f"s{i % strata}", size=1) for i in range(count)]


@given(st.dictionaries(st.sampled_from([0, 1, 4, 16, 64]), st.integers(1, 30), min_size=1), st.integers(1, 5))
def test_quotas_are_met_exactly_over_all_strata(levels: dict[int, int], strata: int) -> None:
    assigned = assign_levels(clusters(sum(levels.values()), strata), levels, key=KEY, place="")
    assert Counter(assigned.values()) == levels


@given(st.integers(2, 60), st.integers(1, 4))
def test_strata_are_balanced_to_within_one_record(half: int, strata: int) -> None:
    members = clusters(2 * half, strata)
    assigned = assign_levels(members, {0: half, 1: half}, key=KEY, place="")
    for stratum in {c.stratum for c in members}:
        counts = Counter(assigned[c.name] for c in members if c.stratum == stratum)
        assert abs(counts[0] - counts[1]) <= 2


@given(st.integers(8, 50), st.sampled_from([0, 1, 4]))
def test_one_more_cluster_changes_at_most_levels_less_one_others(count: int, grown: int) -> None:
    levels = {0: count - 6, 1: 3, 4: 3}
    before = assign_levels(clusters(count), levels, key=KEY, place="")
    after = assign_levels(clusters(count + 1), levels | {grown: levels[grown] + 1}, key=KEY, place="")
    assert sum(before[name] != after[name] for name in before) <= len(levels) - 1


def test_a_raised_level_only_adds_copies() -> None:
    before = assign_levels(clusters(30), {0: 20, 16: 10}, key=KEY, place="")
    after = assign_levels(clusters(30), {0: 20, 64: 10}, key=KEY, place="")
    assert all((before[name] == 16) == (after[name] == 64) for name in before)


def test_clusters_stay_together_and_what_cannot_fit_is_refused() -> None:
    pair = Cluster(name="pair", stratum="s0", size=2)
    assigned = assign_levels([*clusters(4), pair], {0: 3, 1: 3}, key=KEY, place="")
    assert set(assigned) == {"c0", "c1", "c2", "c3", "pair"}
    with pytest.raises(CostarError, match="whole clusters"):
        assign_levels([pair, Cluster(name="other", stratum="s0", size=2)], {0: 3, 1: 1}, key=KEY, place="here")
    with pytest.raises(CostarError, match=r"3 records\n  expected  4"):
        assign_levels(clusters(3), {0: 4}, key=KEY, place="here")


def test_draws_have_assignments_of_their_own() -> None:
    first, second = (assign_levels(clusters(40), {0: 20, 1: 20}, key=(1, draw, "p"), place="") for draw in (0, 1))
    assert first != second
