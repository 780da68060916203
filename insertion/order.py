"""Training order: for each epoch of a draw a keyed permutation of the base sequences, computed, never stored.

A Feistel network of 8 rounds over the smallest power of two that holds [0, S), with cycle walking: an index that
leaves the range is permuted again until it falls inside. Fewer than 6 rounds fail tests of randomness. A corpus with
order tables is read as they say instead: once, and in the same order in every draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CostarError
from ..core.hashing import U64, keyed_hash, mix64
from ..corpus.neox import NeoxIndex
from ..corpus.windows import TableWindows, Windows

ROUNDS = 8


class Order(Protocol):
    """What is read when, over `size` base sequences."""

    @property
    def size(self) -> int: ...

    def sequences(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The base sequence [n] read at each slot [n]."""

    def slots(self, sequences: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """The slot at which each base sequence is read in an epoch: the inverse of `sequences`."""


def make_order(windows: Windows, *, seed: int, draw: int) -> Order:
    """The order in which a base is read: by its tables where it has some, otherwise keyed by seed and draw."""
    if isinstance(windows, TableWindows):
        return TableOrder(index=windows.index)
    return FeistelOrder(seed=seed, draw=draw, size=windows.size)


@dataclass(frozen=True, kw_only=True)
class TableOrder:
    """One epoch in the order of shuffle_idx, whatever the draw."""

    index: NeoxIndex

    @property
    def size(self) -> int:
        return self.index.samples

    def sequences(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The base sequence [n] read at each slot [n].

        Raises:
            CostarError: a slot beyond the tables.
        """
        slots = np.asarray(slots, np.int64)
        if len(slots) and slots.max() >= self.size:
            raise table_ends(f"slot {slots.max():,}", self.size)
        return self.index.shuffle_idx[slots].astype(np.int64)

    def slots(self, sequences: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """The slot at which each base sequence is read: the inverse of `sequences`. There is no epoch but 0."""
        assert epoch == 0
        return self.index.slots_of(np.asarray(sequences, np.int64))


def table_ends(found: str, size: int) -> CostarError:
    """The refusal of a budget that the order tables do not hold."""
    return CostarError(
        "[corpus] index",
        found=found,
        expected=f"at most {size:,} slots, the samples of the order tables: they hold one pass",
        mend="fewer steps or a smaller batch, tables of more samples, or no `index`: costar's order has no end",
    )


@dataclass(frozen=True, kw_only=True)
class FeistelOrder:
    """A keyed permutation for each epoch: `sequences` maps slots to base sequences, for any number of epochs."""

    seed: int
    draw: int
    size: int

    def epoch(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        return slots // self.size

    def sequences(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The base sequence [n] read at each slot [n]."""
        slots = np.asarray(slots, np.int64)
        out = np.empty(len(slots), np.int64)
        epochs = self.epoch(slots)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            out[chosen] = self._permute((slots[chosen] % self.size).astype(np.uint64), int(epoch), inverse=False)
        return out

    def slots(self, sequences: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """The slot at which each base sequence is read in an epoch: the inverse of `sequences`."""
        within = self._permute(np.asarray(sequences).astype(np.uint64), epoch, inverse=True)
        return within.astype(np.int64) + epoch * self.size

    def _permute(self, values: U64, epoch: int, *, inverse: bool) -> U64:
        bits = max(2, (self.size - 1).bit_length())
        keys = [keyed_hash(self.seed, self.draw, "order", epoch, number) for number in range(ROUNDS)]
        values = feistel(values, bits, keys, inverse=inverse)
        outside = np.flatnonzero(values >= self.size)
        while len(outside):
            values[outside] = feistel(values[outside], bits, keys, inverse=inverse)
            outside = outside[values[outside] >= self.size]
        return values


def feistel(values: U64, bits: int, keys: list[int], *, inverse: bool) -> U64:
    """One pass of an alternating Feistel network over [0, 2^bits); the halves may differ by one bit."""
    low_bits = np.uint64(bits // 2)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high, low = values >> low_bits, values & low_mask
    numbers = range(len(keys) - 1, -1, -1) if inverse else range(len(keys))
    for number in numbers:
        key = np.uint64(keys[number])
        if number % 2:
            low = low ^ (mix64(high, 0) ^ mix64(high + key, 1)) & low_mask
        else:
            high = high ^ (mix64(low, 0) ^ mix64(low + key, 1)) & high_mask
    return (high << low_bits) | low
