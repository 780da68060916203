"""Where in its sequence a copy lies: one span overwritten inside [1, L−1], every other token as it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Spans:
    """Per exposure [n]: first overwritten index, index of the record's first token, overwritten tokens, and whether the
    record begins where a document began (then no EOS is written before it)."""

    begin: NDArray[np.int64]
    start: NDArray[np.int64]
    displaced: NDArray[np.int64]
    at_boundary: NDArray[np.bool_]


def find_spans(windows: NDArray[np.integer], lengths: NDArray[np.int64], targets: NDArray[np.int64], eos: int) -> Spans:
    """Spans for records of `lengths` tokens [n] in base sequences `windows` [n, L+1], near `targets` [n] in [1, L−1−length].

    A document that starts at q (its left neighbour is an EOS) takes the record at the q nearest to the target, ties to
    the smaller; without one in range an EOS is written before the record as well.
    """
    length = windows.shape[1] - 1
    assert ((lengths >= 1) & (lengths <= length - 3)).all()
    assert ((targets >= 1) & (targets <= length - 1 - lengths)).all()
    places = np.arange(1, length + 1)
    starts_here = windows[:, :-1] == eos
    allowed = starts_here & (places[None, :] <= (length - 1 - lengths)[:, None])
    distance = np.where(allowed, np.abs(places[None, :] - targets[:, None]), length + 1)
    nearest = np.argmin(distance, axis=1)
    at_boundary = distance[np.arange(len(windows)), nearest] <= length
    free = np.clip(targets - 1, 1, length - 2 - lengths)
    begin = np.where(at_boundary, places[nearest], free)
    start = np.where(at_boundary, begin, begin + 1)
    displaced = lengths + np.where(at_boundary, 1, 2)
    return Spans(begin=begin, start=start, displaced=displaced, at_boundary=at_boundary)
