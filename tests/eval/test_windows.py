"""Windows of long texts: every token once, as much context as the definition says, and no change for what fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from costar.core.models import ModelShape
from costar.eval.ledger import by_key, ledger_table, refusals, score_requests
from costar.eval.probes import Request
from costar.eval.reader import OwnReader
from costar.eval.windows import score_in_windows, windows_of
from costar.train.init import init_weights
from costar.train.model import Llama
from hypothesis import given
from hypothesis import strategies as st

LONGEST = 16


@pytest.fixture(scope="module")
def reader() -> OwnReader:
    model = Llama(ModelShape(layers=2, hidden=32, heads=2, kv_heads=2, ffn=64, vocab_size=90, tied=False))
    init_weights(model, 3, 0)
    return OwnReader(model, vocab_size=90, longest=LONGEST, eos=0)


def text_of(length: int, seed: int = 0) -> Request:
    ids = np.random.default_rng(seed).integers(1, 90, length)
    return Request("r", "text", tuple(ids.tolist()))


def inputs(request: Request) -> tuple[int, ...]:
    return (request.before or (0,)) + request.ids[:-1]


@given(st.integers(1, 100), st.integers(1, 40))
def test_windows_hold_every_token_once_in_order_and_inputs_fit(length: int, longest: int) -> None:
    request = text_of(length)
    windows = windows_of(request, longest)
    assert tuple(token for window in windows for token in window.ids) == request.ids
    assert all(len(inputs(window)) <= longest for window in windows)
    assert len(windows) == -(-length // longest)
    assert len({window.key for window in windows}) == len(windows)


@given(st.integers(2, 100), st.integers(1, 40))
def test_all_windows_but_the_only_one_are_full_and_stand_where_the_text_does(length: int, longest: int) -> None:
    request = text_of(length)
    windows = windows_of(request, longest)
    if len(windows) == 1:
        assert windows == [request]
        return
    stream, end = (0, *request.ids), 0
    for window in windows:
        end += len(window.ids)
        assert inputs(window) == stream[end - longest : end]


def test_a_text_that_fits_has_the_bits_it_has_without_windows(reader: OwnReader) -> None:
    requests = [text_of(9, 1), text_of(LONGEST, 2)]
    whole, cut = (
        score_requests(reader, requests, np.ones(90, np.int32)),
        score_in_windows(reader, requests, np.ones(90, np.int32), LONGEST),
    )
    assert all(np.array_equal(whole[name], cut[name]) for name in whole)


def test_long_texts_are_one_sequence_of_the_ledger_each(reader: OwnReader) -> None:
    """Among short ones and one with a context; by hand, a pass a token."""
    long, other = text_of(41, 3), Request("s", "text", text_of(33, 4).ids)
    site = Request("t", "text", (3, 4), context="site", before=(7, 8))
    requests = [long, text_of(5, 5), other, site]
    requests[1] = Request("q", "text", requests[1].ids)
    columns = score_in_windows(reader, requests, np.arange(90, dtype=np.int32), LONGEST)
    assert columns["lengths"].tolist() == [41, 5, 33, 2]
    ledger = by_key(ledger_table("run", 0, requests, columns))
    assert list(ledger) == [request.key for request in requests]
    table = ledger_table("run", 0, requests, columns)
    assert table.column("position").to_pylist() == [*range(41), *range(5), *range(33), 0, 1]
    for request in (long, other):
        stream, logps = (0, *request.ids), ledger[request.key].logp
        for at, token in enumerate(request.ids):
            window = at // LONGEST
            end = min((window + 1) * LONGEST, len(request.ids))
            given_ids = stream[max(end - LONGEST, 0) : at + 1]
            with torch.no_grad():
                logits = reader.logits(reader.states(torch.tensor([given_ids])))[0, -1]
            assert logps[at] == pytest.approx(float(torch.log_softmax(logits, -1)[token]), abs=1e-4)


def test_only_whole_texts_after_eos_roll(reader: OwnReader) -> None:
    ids = text_of(40).ids
    rolls = Request("a", "text", ids)
    placed = Request("c", "text", ids, context="site", before=(1, 2))
    partly = Request("d", "text", ids, start=20)
    assert set(refusals([rolls, placed, partly], LONGEST, 90)) == {r.key for r in (placed, partly)}
    assert all(windows_of(request, LONGEST) == [request] for request in (placed, partly))
