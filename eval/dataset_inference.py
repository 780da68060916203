"""Dataset inference: was a set of records read, where one record alone tells too little? (Maini et al., arXiv 2406.06443)

The scores of all attacks are features: clipped at the outer 2.5 % on either side, standardized, and weighed by a linear
probe that is fitted on half of the members and non-members. A one-sided Welch test asks whether it puts n members of the
other half above n of its non-members. Clusters are the units: each has the mean of its records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import keyed_hash

Floats = NDArray[np.float64]

SIZES = (2, 5, 10, 20, 50, 100, 200, 500, 1000)
RESAMPLES = 50
CLIP = (0.025, 0.975)
METHOD = f"median one-sided Welch p over {RESAMPLES} random halves, linear probe fitted on the other half"


def cluster_features(
    rows: Sequence[str], clusters: Mapping[str, str], attacks: Sequence[Mapping[str, float]]
) -> Floats:
    """Mean features [C, F] of the clusters of some records, in the order of their names."""
    names = sorted({clusters[row] for row in rows})
    place = {name: number for number, name in enumerate(names)}
    sums, counts = np.zeros((len(names), len(attacks))), np.zeros(len(names))
    for row in rows:
        number = place[clusters[row]]
        sums[number] += [attack[row] for attack in attacks]
        counts[number] += 1
    return np.asarray(sums / np.maximum(counts, 1)[:, None])


def inference_p(members: Floats, others: Floats, key: tuple[int | str, ...]) -> dict[int, float]:
    """Set size → median p, for the sizes that half of the smaller side allows."""
    half = min(len(members), len(others)) // 2
    sizes = [n for n in SIZES if n <= half]
    if not sizes:
        return {}
    generator = np.random.Generator(np.random.PCG64(keyed_hash("dataset inference", *key)))
    found = np.zeros((RESAMPLES, len(sizes)))
    for number in range(RESAMPLES):
        one, other = (group[generator.permutation(len(group))] for group in (members, others))
        a, b = len(one) - len(one) // 2, len(other) - len(other) // 2
        scores = _probed(one[:a], other[:b], [one[a:], other[b:]])
        found[number] = [_welch_p(*(own[:n] for own in scores)) for n in sizes]
    return dict(zip(sizes, np.median(found, axis=0).tolist(), strict=True))


def _probed(members: Floats, others: Floats, tested: Sequence[Floats]) -> list[Floats]:
    """The scores of both tested groups by a probe that is fitted on members and others."""
    known = np.concatenate([members, others])
    low, high = np.quantile(known, CLIP, axis=0)
    clipped = np.clip(known, low, high)
    spread = clipped.std(0)
    spread[spread < 1e-12] = np.inf
    weights = np.concatenate([np.full(len(members), len(others)), np.full(len(others), len(members))]) ** 0.5

    def design(values: Floats) -> Floats:
        return np.column_stack([np.ones(len(values)), (np.clip(values, low, high) - clipped.mean(0)) / spread])

    target = np.repeat([1.0, -1.0], [len(members), len(others)])
    fitted = np.linalg.lstsq(design(known) * weights[:, None], target * weights, rcond=1e-8)[0]
    return [design(values) @ fitted for values in tested]


def _welch_p(members: Floats, others: Floats) -> float:
    """P-value of means no larger in the first sample; groups without any variation are decided by their means."""
    from scipy.special import stdtr

    n, difference = len(members), float(members.mean() - others.mean())
    parts = [float(group.var(ddof=1)) / n for group in (members, others)]
    variance = sum(parts)
    if variance <= 0:
        return 0.5 if difference == 0 else float(difference < 0)
    freedom = variance**2 / sum(part**2 / (n - 1) for part in parts)
    return float(stdtr(freedom, -difference / variance**0.5))
