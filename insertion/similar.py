"""Records that tell the same: one cluster within a perturbation, an error over two of them.

Within a perturbation two records are joined, and all that they are joined to, where

- their words are the same;
- they are near-duplicates: they share half of the shorter one's runs of eight words, and no template wrote them;
- their own words share a run of 13 that is no common phrase;
- they name the same person or item: an equal value that identifies one, as their kind says.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CostarError
from ..core.hashing import U64
from ..corpus.decontaminate import N, WordHasher, rolling

RUN = 8  # words in a row that two records share
NEAR = 0.5  # share of the shorter record's runs above which two records count as one text
NEAR_GENERATED = (
    0.75  # the same between generated records: sentences about other people and places share more than half
)
CROWD = 50  # a run that more records hold is a phrase of a template
FEW, MANY = 3, 10  # a run of 13 words that a tenth of the records, within these bounds, hold may be one passage
ENOUGH = 4  # runs of near-duplicates within a perturbation: fewer may be a phrase between two short facts
PAIRS = 1 << 24  # pairs of records counted together: bounds the memory
Pairs = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A main record as far as this check sees it.

    `prose` are the texts of which 13 words are a passage of someone's; `identities` name a person or an item, each as (what,
    value). A `template` holds most words of the text, so that sharing them says nothing.
    """

    record_id: str
    perturbation: str
    cluster: str
    place: str
    text: str
    generated: bool = False
    prose: tuple[str, ...] = ()
    identities: tuple[tuple[str, str], ...] = ()
    template: bool = False


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How texts are alike: `keys` are equal where the words are; `pairs` [2, n], a < b, share most of their runs.

    `counts` [n] says how many runs they share, `sizes` how many every text has.
    """

    keys: list[bytes]
    sizes: NDArray[np.int64]
    pairs: Pairs
    counts: NDArray[np.int64]


def compare_texts(texts: Sequence[Text]) -> Compared:
    """Compare all texts with each other. Runs that more than `CROWD` texts hold count as shared by none."""
    hasher = WordHasher()
    keys: list[bytes] = []
    runs: list[U64] = []
    for each in texts:
        words = hasher.words(each.text)
        keys.append(hashlib.blake2b(words.tobytes() or each.text.encode(), digest_size=16).digest())
        runs.append(np.unique(rolling(words, min(RUN, len(words)))) if len(words) else words)
    sizes = np.array([len(each) for each in runs], np.int64)
    generated = np.array([each.generated for each in texts], np.bool_)
    kept = [(np.zeros((2, 0), np.int64), np.zeros(0, np.int64))]
    for pairs, counts in _shared_runs(runs, sizes):
        a, b = pairs
        near = np.where(generated[a] & generated[b], NEAR_GENERATED, NEAR)
        alike = counts >= near * np.minimum(sizes[a], sizes[b])
        kept.append((pairs[:, alike], counts[alike]))
    pairs, counts = (np.concatenate(parts, axis=-1) for parts in zip(*kept, strict=True))
    return Compared(keys=keys, sizes=sizes, pairs=pairs, counts=counts)


def join_similar_records(texts: Sequence[Text], compared: Compared) -> list[str]:
    """The cluster of every record: the similar ones of a perturbation are joined under the first's name."""
    first: dict[tuple[str, str], int] = {}
    above = [first.setdefault((each.perturbation, each.cluster), number) for number, each in enumerate(texts)]

    def root(number: int) -> int:
        while above[number] != number:
            above[number] = number = above[above[number]]
        return number

    for a, b in _alike(texts, compared):
        one, other = sorted((root(a), root(b)))
        above[other] = one
    return [texts[root(number)].cluster for number in range(len(texts))]


def refuse_shared_texts(texts: Sequence[Text], compared: Compared, overlaps: set[frozenset[str]]) -> None:
    """Stop where two perturbations hold the same or nearly the same text: a record would be held out and inserted at once.

    `overlaps` lists pairs of perturbations that may.

    Raises:
        CostarError: the two records and how much they share.
    """
    sizes = compared.sizes
    shared = dict(zip(zip(*compared.pairs.tolist(), strict=True), compared.counts.tolist(), strict=True))
    holders: dict[bytes, dict[str, int]] = {}
    for number, each in enumerate(texts):
        same = holders.setdefault(compared.keys[number], {})
        shared |= {(n, number): int(sizes[number]) for name, n in same.items() if name != each.perturbation}
        same.setdefault(each.perturbation, number)
    for (a, b), count in sorted(shared.items(), key=lambda item: (-item[1], item[0])):
        pair = frozenset({texts[a].perturbation, texts[b].perturbation})
        if len(pair) == 1 or pair in overlaps:
            continue
        shorter = int(min(sizes[a], sizes[b]))
        raise CostarError(
            texts[b].place,
            found=f"{texts[b].record_id} shares {count / shorter if shorter else 1:.0%} of its text with {texts[a].record_id}"
            f" ({texts[a].place})",
            expected="perturbations whose records differ, so that no held-out text is inserted elsewhere",
            mend=f'remove one of the two, or say overlaps = ["{texts[a].perturbation}"] in '
            f"[perturbation.{texts[b].perturbation}]",
        )


def _alike(texts: Sequence[Text], compared: Compared) -> Iterator[tuple[int, int]]:
    """Pairs of records of one perturbation that belong together; enough of them to connect all that do."""
    first: dict[tuple[str, bytes], int] = {}
    for number, each in enumerate(texts):
        yield first.setdefault((each.perturbation, compared.keys[number]), number), number
    names = np.unique([each.perturbation for each in texts], return_inverse=True)[1]
    own = np.array([not each.template for each in texts], np.bool_)
    a, b = compared.pairs
    near = (names[a] == names[b]) & own[a] & own[b] & (compared.counts >= ENOUGH)
    yield from zip(a[near].tolist(), b[near].tolist(), strict=True)
    holders: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for number, each in enumerate(texts):
        for what, value in each.identities:
            if each.generated and what == "name":
                continue  # generated names are few; their bearers differ in all else
            holders[(each.perturbation, what, " ".join(value.casefold().split()))].append(number)
    for held in holders.values():
        if len(held) <= CROWD:
            yield from ((held[0], other) for other in held[1:])
    for number in range(int(names.max(initial=-1)) + 1):
        yield from _same_prose(texts, np.flatnonzero(names == number).tolist())


def _same_prose(texts: Sequence[Text], members: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbours among the holders of each run of `N` own words that is no common phrase.

    Generated texts are sentences of a template with other names, however long a run is.
    """
    hasher = WordHasher()
    members = [number for number in members if texts[number].prose and not texts[number].generated]
    runs = [_unique(rolling(hasher.words(text), N) for text in texts[number].prose) for number in members]
    crowd = min(MANY, max(FEW, len(members) // 10))
    values, owner = _by_run(runs)
    for starts, size in _groups(values, crowd):
        held = owner[starts[:, None] + np.arange(size)]
        found = np.unique(np.stack([held[:, :-1].ravel(), held[:, 1:].ravel()]), axis=1)
        yield from ((members[a], members[b]) for a, b in found.T.tolist())


def _unique(parts: Iterable[U64]) -> U64:
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))


def _by_run(runs: Sequence[U64]) -> tuple[U64, NDArray[np.int64]]:
    """Every run of every text, sorted, with the number of its text; ascending within equal runs."""
    values = np.concatenate([np.zeros(0, np.uint64), *runs])
    owner = np.repeat(np.arange(len(runs)), [len(each) for each in runs])
    order = np.argsort(values, kind="stable")
    return values[order], owner[order]


def _groups(values: U64, crowd: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """(where they start, size) of the equal values that are more than one and no more than `crowd`."""
    edges = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]])[: len(values) + 1])
    sizes = np.diff(edges)
    for size in range(2, crowd + 1):
        starts = edges[:-1][sizes == size]
        if len(starts):
            yield starts, size


def _shared_runs(runs: Sequence[U64], sizes: NDArray[np.int64]) -> Iterator[tuple[Pairs, NDArray[np.int64]]]:
    """(pairs, counts): how many runs of words each pair of texts shares, for some texts after the others."""
    values, owner = _by_run(runs)
    groups = [(starts, *np.triu_indices(size, 1)) for starts, size in _groups(values, CROWD)]
    total = sum(len(starts) * len(i) for starts, i, _ in groups)
    edges = np.linspace(0, len(runs), total // PAIRS + 2).astype(np.int64)
    for first, last in pairwise(edges.tolist()):
        codes = []
        for starts, i, j in groups:
            for one, other in zip(i, j, strict=True):
                a = owner[starts + one]
                here = (a >= first) & (a < last)
                codes.append(a[here] * len(runs) + owner[starts[here] + other])
        found, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *codes]), return_counts=True)
        yield np.stack(np.divmod(found, max(len(runs), 1))), counts
