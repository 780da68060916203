from __future__ import annotations

import numpy as np
from costar.corpus.store import TokenStore
from costar.corpus.windows import StoreWindows
from costar.insertion import reference
from costar.insertion.order import FeistelOrder
from costar.insertion.overlay import Edits, Overlay
from costar.insertion.splice import find_spans
from hypothesis import given
from hypothesis import strategies as st

from tests.insertion import oracle

EOS = 0


def store_of(tokens: np.ndarray) -> TokenStore:
    """A store of these tokens, a document after every EOS."""
    ends = np.union1d(np.flatnonzero(tokens == EOS) + 1, [len(tokens)])
    return TokenStore(tokens, np.diff(ends, prepend=0).astype(np.int32))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], int, int]:
    length = draw(st.integers(8, 40))
    window = draw(st.lists(st.integers(0, 3), min_size=length + 1, max_size=length + 1))
    n = draw(st.integers(1, length - 3))
    return window, n, draw(st.integers(1, length - 1 - n))


@given(cases())
def test_the_span_is_the_one_of_the_algorithm_and_spares_both_ends(case: tuple[list[int], int, int]) -> None:
    window, n, target = case
    tokens = np.array(window)
    one = (np.array([0]), np.array([n]), np.array([target]))
    spans = find_spans(*one, StoreWindows(store_of(tokens), len(window) - 1))
    again = reference.spans(tokens[None], one[1], one[2], EOS)
    assert [int(column[0]) for column in again] == [
        int(c[0]) for c in (spans.begin, spans.start, spans.displaced, spans.at_boundary)
    ]
    found = (int(spans.begin[0]), int(spans.start[0]), int(spans.displaced[0]), bool(spans.at_boundary[0]))
    assert found == oracle.span(window, n, target, EOS)
    begin, start, displaced, at_boundary = found
    assert begin >= 1
    assert begin + displaced <= len(window) - 1  # token L, shared with the next sequence, is untouched
    assert start + n < begin + displaced  # the closing EOS is in the same sequence
    assert at_boundary == (window[start - 1] == EOS and begin == start)


@given(st.data())
def test_an_arm_is_one_contiguous_stream_whichever_neighbours_carry_copies(data: st.DataObject) -> None:
    """Writing every payload at byte (i·L + p)·itemsize gives the stream that the overlay reads (invariants 1 and 2)."""
    length, size = data.draw(st.integers(8, 24)), data.draw(st.integers(2, 8))
    tokens = np.array(
        data.draw(st.lists(st.integers(0, 5), min_size=size * length + 1, max_size=size * length + 1)), np.uint16
    )
    windows = StoreWindows(store_of(tokens), length)
    order = FeistelOrder(seed=data.draw(st.integers(0, 99)), draw=0, size=size)
    slots = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))))
    sequences = order.sequences(slots)
    stream = tokens.copy()
    begins, payload, offsets = [], [], [0]
    for sequence in sequences:
        n = data.draw(st.integers(1, length - 3))
        record = [7] * n
        target = np.array([data.draw(st.integers(1, length - 1 - n))])
        spans = find_spans(np.array([sequence]), np.array([n]), target, windows)
        text = ([] if spans.at_boundary[0] else [EOS]) + record + [EOS]
        begins.append(int(spans.begin[0]))
        payload += text
        offsets.append(len(payload))
        at = sequence * length + begins[-1]
        stream[at : at + len(text)] = text
    edits = Edits(slots, np.array(begins), np.array(offsets), np.array(payload))
    read = Overlay(windows, order, edits).sequences(np.arange(size))
    for slot, sequence in enumerate(order.sequences(np.arange(size))):
        assert np.array_equal(read[slot], stream[sequence * length : sequence * length + length + 1])
