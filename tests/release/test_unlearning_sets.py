"""Halves of what was inserted: whole clusters, disjoint, balanced over levels and strata, the same whatever the order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from costar.eval.probes import Tokens
from costar.release.unlearning_sets import divided, memorization_logs, min_k_logs
from hypothesis import given, settings
from hypothesis import strategies as st

Row = dict[str, Any]
CLUSTERS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from([0, 1, 4]), st.sampled_from("xy"), st.integers(1, 3)), max_size=40
)


def rows_of(clusters: list[tuple[str, int, str, int]]) -> list[Row]:
    """One to three records a cluster, each cluster of one perturbation, level and stratum."""
    return [
        {
            "record_id": f"{name}/{number:03}-{part}",
            "perturbation": name,
            "level": level,
            "stratum": stratum,
            "split": "member" if level else "nonmember",
            "cluster_id": f"{name}/{number}",
        }
        for number, (name, level, stratum, size) in enumerate(clusters)
        for part in range(size)
    ]


def cells(rows: list[Row] | Any) -> Counter[tuple[str, int, str]]:
    """How many clusters there are by perturbation, level and stratum."""
    found = {row["cluster_id"]: (row["perturbation"], row["level"], row["stratum"]) for row in rows}
    return Counter(found.values())


@settings(max_examples=60)
@given(clusters=CLUSTERS, seed=st.integers(0, 2**62))
def test_halves_are_disjoint_whole_and_balanced_in_every_cell(
    clusters: list[tuple[str, int, str, int]], seed: int
) -> None:
    rows = rows_of(clusters)
    sets = divided(rows, seed)
    members = [row for row in rows if row["level"]]
    assert sorted(r["record_id"] for r in [*sets.forget, *sets.keep]) == sorted(r["record_id"] for r in members)
    assert not {r["cluster_id"] for r in sets.forget} & {r["cluster_id"] for r in sets.keep}
    forget, keep = cells(sets.forget), cells(sets.keep)
    assert all(abs(forget[cell] - keep[cell]) <= 1 for cell in cells(members))
    assert [row["level"] for row in sets.holdout] == [0] * (len(rows) - len(members))


@settings(max_examples=30)
@given(clusters=CLUSTERS, shuffle=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_has_no_say(clusters: list[tuple[str, int, str, int]], shuffle: Any) -> None:
    rows = rows_of(clusters)
    mixed = list(rows)
    shuffle.shuffle(mixed)
    assert divided(rows, 7, "late") == divided(mixed, 7, "late")


def test_other_seeds_halve_otherwise_and_odd_cells_favour_no_side() -> None:
    rows = rows_of([("a", 1, "x", 1)] * 3)
    sizes = Counter(len(divided(rows, seed).forget) for seed in range(200))
    assert set(sizes) == {1, 2}
    assert min(sizes.values()) > 60
    assert len({tuple(r["record_id"] for r in divided(rows, seed).forget) for seed in range(50)}) == 6


def tokens_of(logp: list[float], top1: list[bool]) -> Tokens:
    n = len(logp)
    zeros, ints = np.zeros(n, np.float32), np.ones(n, np.int32)
    given = {"token_id": ints, "n_bytes": ints, "rank": ints, "mean_logp": zeros, "var_logp": zeros, "lse_top40": zeros}
    return Tokens(start=0, logp=np.array(logp, np.float32), top1=np.array(top1), **given)


def test_logs_are_those_of_a_hand_calculation() -> None:
    known = [
        tokens_of([-1, -2, -3, -4], flags)
        for flags in ([True, False, True, True], [True] * 4, [True, True, True, False])
    ]
    logs = memorization_logs("keep_", known)
    strengths = [each["score"] for each in logs["keep_extraction_strength"]["value_by_index"].values()]
    assert strengths == [0.5, 1.0, 0.25], "the last one would be 0, but theirs is 1/n at least"
    assert [each["score"] for each in logs["keep_exact_memorization"]["value_by_index"].values()] == [0.75, 1.0, 0.75]
    assert logs["keep_extraction_strength"]["agg_value"] == np.mean(strengths)
    found = min_k_logs(
        [tokens_of([-1, -2, -3, -4, -5], [True] * 5)], [tokens_of([v] * 5, [True] * 5) for v in (-9, -4.5, -1)]
    )
    assert found["mia_min_k"]["forget"]["value_by_index"] == {"0": {"score": 4.5}}, "two of five tokens"
    assert found["mia_min_k"]["agg_value"] == found["mia_min_k"]["auc"] == 0.5, "one wins, one ties, one loses"
