"""Where in its sequence a copy lies: one span overwritten inside [1, L−1], every other token as it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..corpus.windows import Windows


@dataclass(frozen=True)
class Spans:
    """Per exposure [n]: first overwritten index, index of the record's first token, overwritten tokens, and whether the
    record begins where a document began (then no EOS is written before it)."""

    begin: NDArray[np.int64]
    start: NDArray[np.int64]
    displaced: NDArray[np.int64]
    at_boundary: NDArray[np.bool_]


def find_spans(
    sequences: NDArray[np.int64], lengths: NDArray[np.int64], targets: NDArray[np.int64], windows: Windows
) -> Spans:
    """Spans for records of `lengths` tokens [n] in base sequences [n] of L + 1 tokens, near `targets` [n] in [1, L−1−length].

    A document that starts at q takes the record at the q nearest to the target, ties to the smaller; without one in range
    an EOS is written before the record as well. No token is read.
    """
    length = windows.length
    assert ((lengths >= 1) & (lengths <= length - 3)).all()
    assert ((targets >= 1) & (targets <= length - 1 - lengths)).all()
    below, over = windows.boundaries(sequences, targets)
    far = 2 * length
    distance_below = np.where(below >= 1, targets - below, far)
    distance_over = np.where(over <= length - 1 - lengths, over - targets, far)
    at_boundary = np.minimum(distance_below, distance_over) < far
    nearest = np.where(distance_below <= distance_over, below, over)
    free = np.clip(targets - 1, 1, length - 2 - lengths)
    begin = np.where(at_boundary, nearest, free)
    start = np.where(at_boundary, begin, begin + 1)
    displaced = lengths + np.where(at_boundary, 1, 2)
    return Spans(begin=begin, start=start, displaced=displaced, at_boundary=at_boundary)
