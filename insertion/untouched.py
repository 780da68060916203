"""Proof that sequences without a copy are those of the base."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import keyed_hash
from .overlay import Overlay
from .reference_base import ReferenceBase

CHUNK = 16_384
ALL_TOKENS = 2**34  # up to so many tokens of an arm are read again; of a longer one a keyed share of its slots


def check_untouched(
    overlay: Overlay,
    base: ReferenceBase,
    touched: NDArray[np.int64],
    slots: int,
    key: tuple[int, int],
    progress: Callable[[float], None],
) -> tuple[int, int, list[str]]:
    """Compare what an overlay reads at slots without a copy with the base sequence that the order gives.

    `key` is (suite seed, draw), `touched` the slots with a copy. Returns how many sequences were compared, how many are
    untouched, and what differs.
    """
    step = max(1, -(-slots * overlay.length // ALL_TOKENS))
    offset = keyed_hash(*key, "untouched") % step
    touched = np.sort(touched)
    compared, problems = 0, []
    for first in range(offset, slots, CHUNK * step):
        progress(0.7 + 0.3 * first / slots)
        wanted = np.arange(first, min(first + CHUNK * step, slots), step)
        here = touched[slice(*np.searchsorted(touched, (wanted[0], wanted[-1] + 1)))]
        wanted = wanted[~np.isin(wanted, here)]
        rows = base.rows(base.sequences(key[1], wanted))
        different = np.flatnonzero((overlay.sequences(wanted) != rows).any(axis=1))
        problems += [f"slot {wanted[i]} has no copy but differs from the base" for i in different[:3].tolist()]
        compared += len(wanted)
    return compared, slots - len(touched), problems
