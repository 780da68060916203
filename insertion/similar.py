"""Records that are the same text, or nearly: one cluster within a perturbation, an error over two of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CostarError
from ..corpus.decontaminate import WordHasher, rolling

RUN = 8  # words in a row that two records share
NEAR = 0.5  # share of the shorter record's runs above which two records count as one text
NEAR_GENERATED = (
    0.75  # the same between generated records: sentences about other people and places share more than half
)
CROWD = 50  # a run that more records hold is a phrase of a template


@dataclass(frozen=True, kw_only=True)
class Text:
    """A main record as far as this check sees it."""

    record_id: str
    perturbation: str
    cluster: str
    place: str
    text: str
    generated: bool = False


def merge_same_texts(texts: Sequence[Text]) -> list[str]:
    """The cluster of every record: those of a perturbation that hold the same words are joined under the first's name."""
    hasher = WordHasher()
    first: dict[tuple[str, bytes | str], tuple[str, str]] = {}
    joined: dict[tuple[str, str], tuple[str, str]] = {}

    def root(cluster: tuple[str, str]) -> tuple[str, str]:
        while cluster in joined:
            cluster = joined[cluster]
        return cluster

    clusters = [(each.perturbation, each.cluster) for each in texts]
    for each, cluster in zip(texts, clusters, strict=True):
        words = hasher.words(each.text).tobytes() or each.text
        own, other = root(cluster), root(first.setdefault((each.perturbation, words), cluster))
        if own != other:
            joined[own] = other
    return [root(cluster)[1] for cluster in clusters]


def refuse_shared_texts(texts: Sequence[Text], overlaps: set[frozenset[str]]) -> None:
    """Stop where two perturbations hold the same or nearly the same text: a record would be held out and inserted at once.

    `overlaps` lists pairs of perturbations that may.

    Raises:
        CostarError: the two records and how much they share.
    """
    hasher = WordHasher()
    words = [hasher.words(each.text) for each in texts]
    runs = [np.unique(rolling(each, min(RUN, len(each)))) if len(each) else each for each in words]
    shared = dict(_shared_runs(runs, [each.perturbation for each in texts]))
    holders: dict[bytes | str, dict[str, int]] = {}
    for number, each in enumerate(texts):
        same = holders.setdefault(words[number].tobytes() or each.text, {})
        shared |= {(n, number): len(runs[number]) for name, n in same.items() if name != each.perturbation}
        same.setdefault(each.perturbation, number)
    for (a, b), count in sorted(shared.items(), key=lambda item: (-item[1], item[0])):
        shorter = min(len(runs[a]), len(runs[b]))
        pair = frozenset({texts[a].perturbation, texts[b].perturbation})
        near = NEAR_GENERATED if texts[a].generated and texts[b].generated else NEAR
        if pair in overlaps or count < near * shorter:
            continue
        raise CostarError(
            texts[b].place,
            found=f"{texts[b].record_id} shares {count / shorter if shorter else 1:.0%} of its text with {texts[a].record_id}"
            f" ({texts[a].place})",
            expected="perturbations whose records differ, so that no held-out text is inserted elsewhere",
            mend=f'remove one of the two, or say overlaps = ["{texts[a].perturbation}"] in '
            f"[perturbation.{texts[b].perturbation}]",
        )


def _shared_runs(runs: Sequence[NDArray[np.uint64]], names: Sequence[str]) -> Counter[tuple[int, int]]:
    """How many runs of words each pair of records of different perturbations shares."""
    values = np.concatenate([*runs, np.zeros(0, np.uint64)])
    owner = np.repeat(np.arange(len(runs)), [len(each) for each in runs])
    order = np.argsort(values, kind="stable")
    values, owner = values[order], owner[order]
    changes = values[1:] != values[:-1]
    edges = np.flatnonzero(np.concatenate([[True], changes, [True]])[: len(values) + 1])
    shared: Counter[tuple[int, int]] = Counter()
    sizes = np.diff(edges)
    for number in np.flatnonzero((sizes > 1) & (sizes <= CROWD)):
        owners = owner[edges[number] : edges[number + 1]].tolist()
        for a, b in combinations(owners, 2):
            if names[a] != names[b]:
                shared[(a, b)] += 1
    return shared
