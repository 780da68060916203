"""The attack that sees no model: if it tells members from non-members, their texts differ, and no attack means anything.

Length, bytes per token, how well the text compresses, how rare its words are, and its words themselves, hashed, go into a
ridge regression of the labels, which predicts each fifth of the clusters from the others (Das et al., arXiv 2406.16201).
Its predictions are linear in the labels, so the randomization test fits it anew to every permutation, at no cost.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..core.hashing import keyed_hash
from .roc import Bools, Floats, Ints, Trial, auc, midranks, permuted_labels

FOLDS = 5
WORDS = 512
MOST = 2000  # rows that it is fitted to
REFITS = 999
PLACES = 9


def text_features(texts: Sequence[str], n_tokens: Sequence[int]) -> Floats:
    """Standardized features [n, F]; words count as a whole as much as all the others."""
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    total = Counter(word for own in words for word in own)
    plain, bags = [], np.zeros((len(texts), WORDS))
    for row, (text, own, tokens) in enumerate(zip(texts, words, n_tokens, strict=True)):
        n_bytes = len(text.encode())
        rarity = [-np.log(total[word]) for word in own] or [0.0]
        packed = len(zlib.compress(text.encode(), 6))
        plain.append(
            [np.log1p(n_bytes), tokens, n_bytes / tokens, packed / max(1, n_bytes), np.mean(rarity), max(rarity)]
        )
        for word in own:
            bags[row, zlib.crc32(word.encode()) % WORDS] += 1
    return np.concatenate([_standardized(np.array(plain, np.float64)), _standardized(np.log1p(bags))], axis=1)


def _standardized(values: Floats) -> Floats:
    """Columns of mean 0 and equal spread, all together of variance 1."""
    spread = values.std(0)
    used = spread > 1e-12
    return np.asarray((values[:, used] - values[:, used].mean(0)) / spread[used] / np.sqrt(max(1, used.sum())))


def chosen_rows(trial: Trial, key: tuple[int | str, ...]) -> Ints:
    """The rows that are used: all, or of each side those whose blocks come first by keyed hash, half of them members."""
    if len(trial.units) <= MOST:
        return np.arange(len(trial.units))
    order = np.array([keyed_hash("blind", *key, int(block)) for block in range(int(trial.blocks.max()) + 1)], np.uint64)
    rows = np.argsort(order[trial.blocks], kind="stable")
    members, others = rows[trial.is_member[rows]], rows[~trial.is_member[rows]]
    taken = max(min(len(members), MOST // 2), MOST - len(others))
    return np.sort(np.concatenate([members[:taken], others[: MOST - taken]]))


def predictor(features: Floats, units: Ints, key: tuple[int | str, ...]) -> Floats:
    """The matrix [n, n] that turns centred labels into predictions, each cluster's from the labels of other folds."""
    names = np.unique(units)
    order = sorted(names.tolist(), key=lambda unit: keyed_hash("folds", *key, unit))
    fold = np.zeros(int(names.max()) + 1, np.int64)
    fold[order] = np.arange(len(order)) % FOLDS
    folds = fold[units]
    kernel = features @ features.T
    found = np.zeros_like(kernel)
    for each in range(FOLDS):
        own, others = np.flatnonzero(folds == each), np.flatnonzero(folds != each)
        if not len(own) or not len(others):
            continue
        solved = np.linalg.solve(kernel[np.ix_(others, others)] + np.eye(len(others)), kernel[np.ix_(others, own)])
        solved -= solved.mean(0)  # labels are centred on those that it is fitted to
        found[np.ix_(own, others)] = solved.T
    return found


def blind_scores(matrix: Floats, is_member: Bools) -> Floats:
    """What is predicted of each row, rounded so that equal texts are equal on every machine."""
    return np.asarray(np.round(matrix @ is_member.astype(np.float64), PLACES))


def blind_p(matrix: Floats, trial: Trial, key: tuple[int | str, ...]) -> float:
    """One-sided p-value: labels of whole clusters permuted within strata, the regression fitted to each permutation."""
    observed = float(auc(blind_scores(matrix, trial.is_member)[None], trial)[0])
    strata = [np.flatnonzero(trial.strata == stratum) for stratum in np.unique(trial.strata)]
    firsts, places = [], []
    for rows in strata:
        _, first, place = np.unique(trial.blocks[rows], return_index=True, return_inverse=True)
        firsts.append(trial.is_member[rows][first])
        places.append(place)
    extreme = drawn = 0
    for labels in permuted_labels(firsts, key, REFITS):
        permuted = np.zeros((len(labels[0]), len(trial.units)))
        for rows, place, chosen in zip(strata, places, labels, strict=True):
            permuted[:, rows] = chosen[:, place]
        areas = _areas(np.round(permuted @ matrix.T, PLACES), permuted > 0, strata)
        extreme += int((areas >= observed - 1e-12).sum())
        drawn += len(areas)
    return (1 + extreme) / (1 + drawn)


def _areas(scores: Floats, labels: Bools, strata: Sequence[Ints]) -> Floats:
    """The area within strata of each row of scores [P, n] under its own labels [P, n]."""
    above, pairs = np.zeros(len(scores)), np.zeros(len(scores))
    for rows in strata:
        own = labels[:, rows]
        m = own.sum(1)
        above += (midranks(scores[:, rows]) * own).sum(1) - m * (m + 1) / 2
        pairs += m * (len(rows) - m)
    return above / np.maximum(pairs, 1)
