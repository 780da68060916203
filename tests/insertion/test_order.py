from __future__ import annotations

import numpy as np
from costar.insertion.order import FeistelOrder
from hypothesis import given
from hypothesis import strategies as st

from tests.insertion import oracle

GOLDEN = [162, 682, 28, 866, 572, 758]


@given(st.integers(0, 2**31), st.integers(0, 3), st.integers(1, 3000))
def test_an_epoch_is_a_permutation_and_slots_invert_it(seed: int, draw: int, size: int) -> None:
    order = FeistelOrder(seed=seed, draw=draw, size=size)
    slots = np.arange(2 * size)
    sequences = order.sequences(slots)
    for epoch in (0, 1):
        part = sequences[epoch * size : (epoch + 1) * size]
        assert np.array_equal(np.sort(part), np.arange(size))
        assert np.array_equal(order.slots(part, epoch), slots[epoch * size : (epoch + 1) * size])


@given(st.integers(0, 2**31), st.integers(2, 10**9), st.integers(0, 10**10))
def test_arrays_agree_with_plain_integers(seed: int, size: int, slot: int) -> None:
    assert int(FeistelOrder(seed=seed, draw=1, size=size).sequences(np.array([slot]))[0]) == oracle.sequence_at(
        seed, 1, size, slot
    )


def test_epochs_and_draws_have_orders_of_their_own() -> None:
    slots = np.arange(500)
    first = FeistelOrder(seed=1, draw=0, size=500).sequences(slots)
    assert (first != FeistelOrder(seed=1, draw=0, size=500).sequences(slots + 500)).mean() > 0.9
    assert (first != FeistelOrder(seed=1, draw=1, size=500).sequences(slots)).mean() > 0.9


def test_a_known_order_stays_the_same() -> None:
    """The order is part of every suite ever built: if this changes, give it a new name instead."""
    assert FeistelOrder(seed=20, draw=0, size=1000).sequences(np.arange(6)).tolist() == GOLDEN


def test_the_order_looks_random() -> None:
    size = 100_000
    sequences = FeistelOrder(seed=3, draw=0, size=size).sequences(np.arange(size))
    counts, _, _ = np.histogram2d(np.arange(size), sequences, bins=50)
    expected = size / 2500
    z = (((counts - expected) ** 2 / expected).sum() - 2499) / np.sqrt(2 * 2499)
    assert abs(z) < 5
    assert abs(np.corrcoef(sequences[:-1], sequences[1:])[0, 1]) < 0.02
