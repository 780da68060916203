"""The order, the proposals and the span once more, in other arithmetic: what `verify` checks the build against.

Products of 64 bits are made from two halves here, the order is written out round by round, and boundaries are looked for
in the tokens themselves instead of the index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import U64, keyed_hash
from .placement import POSITION_SALT, SPACING_SALT, STRIDE_SALT, WALK, WALK_SALT

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
HALF = np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)


def mix(a: U64, b: U64 | int) -> U64:
    """SplitMix64's finalizer, twice, of a + (b + 1) · golden."""
    with np.errstate(over="ignore"):
        z = a + (np.asarray(b, np.uint64) + np.uint64(1)) * GOLDEN
        for _ in range(2):
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
                z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
            z = z ^ (z >> np.uint64(31))
    return z


def scale(u: U64, width: NDArray[np.int64]) -> NDArray[np.int64]:
    """⌊u · width / 2⁶⁴⌋ for widths below 2³²."""
    w = width.astype(np.uint64)
    return (((u >> HALF) * w + ((u & LOW) * w >> HALF)) >> HALF).astype(np.int64)


def sequences_at(seed: int, draw: int, size: int, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """The base sequence that is read at each slot."""
    bits = max(2, (size - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = np.uint64((1 << (bits // 2)) - 1), np.uint64((1 << (bits - bits // 2)) - 1)
    epochs, within = np.divmod(slots, size)
    out = np.empty(len(slots), np.int64)
    for epoch in np.unique(epochs).tolist():
        keys = [np.uint64(keyed_hash(seed, draw, "order", epoch, number)) for number in range(8)]
        where = np.flatnonzero(epochs == epoch)
        value = within[where].astype(np.uint64)
        while len(where):
            high, low = value >> low_bits, value & low_mask
            with np.errstate(over="ignore"):
                for first, second in zip(keys[::2], keys[1::2], strict=True):
                    high = high ^ (mix(low, 0) ^ mix(low + first, 1)) & high_mask
                    low = low ^ (mix(high, 0) ^ mix(high + second, 1)) & low_mask
            value = high << low_bits | low
            inside = value < size
            out[where[inside]] = value[inside]
            where, value = where[~inside], value[~inside]
    return out


def first_proposals(key: U64, record_hash: U64, copy: NDArray[np.int32], spacing: NDArray[np.object_]) -> U64:
    """The uint64 behind the first proposal of each copy."""
    uniform, centre = mix(key, 0), mix(record_hash, SPACING_SALT)
    with np.errstate(over="ignore"):
        even = centre + copy.astype(np.uint64) * GOLDEN
        burst = centre - centre // np.uint64(32) + uniform // np.uint64(32)
    return np.select([spacing == "even", spacing == "burst"], [even, burst], uniform)


def proposals(key: U64, first: U64, lo: NDArray[np.int64], hi: NDArray[np.int64], attempt: int) -> NDArray[np.int64]:
    """The slot that each copy proposes at one attempt."""
    width = hi - lo
    if attempt == 0:
        return lo + scale(first, width)
    if attempt < WALK:
        return lo + scale(mix(key, attempt), width)
    stride = scale(mix(key, STRIDE_SALT), width)
    while (common := np.gcd(stride, width) != 1).any():
        stride = np.where(common, (stride + 1) % width, stride)
    steps = (attempt - WALK) % width
    return lo + (scale(mix(key, WALK_SALT), width) + steps * stride % width) % width


def position_targets(key: U64, room: NDArray[np.int64], position: NDArray[np.object_]) -> NDArray[np.int64]:
    """The position targets in [1, room]."""
    fixed = [np.ones_like(room), (room + 1) // 2, room]
    names = [position == name for name in ("start", "middle", "end")]
    return np.select(names, fixed, 1 + scale(mix(key, POSITION_SALT), room))


def spans(
    windows: NDArray[Any], lengths: NDArray[np.int64], targets: NDArray[np.int64], eos: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(begin, start, displaced, at_boundary) of records of `lengths` tokens [n] in base sequences [n, L+1]."""
    length = windows.shape[1] - 1
    last = length - 1 - lengths
    row, index = np.nonzero(windows[:, :-1] == eos)
    place = index + 1
    row, place = row[place <= last[row]], place[place <= last[row]]
    far = 4 * length * length
    best = np.full(len(windows), far)
    np.minimum.at(best, row, np.abs(place - targets[row]) * 2 * length + place)
    at_boundary = best < far
    begin = np.where(at_boundary, best % (2 * length), np.minimum(np.maximum(targets - 1, 1), last - 1))
    extra = np.where(at_boundary, 0, 1)
    return begin, begin + extra, lengths + 1 + extra, at_boundary
