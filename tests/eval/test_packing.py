from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from costar.core.models import ModelShape
from costar.eval import packing
from costar.eval.ledger import MEASURES, score_requests
from costar.eval.packing import Row, batches, model_inputs, pack
from costar.eval.probes import Request
from costar.eval.reader import OwnReader
from costar.train.init import init_weights
from costar.train.model import Llama

SHAPE = ModelShape(layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, vocab_size=4_000, tied=False)
NONE = np.ones(SHAPE.vocab_size, np.int32)


@pytest.fixture(scope="module")
def reader() -> OwnReader:
    torch.set_num_threads(1)
    model = Llama(SHAPE)
    init_weights(model, 3, 0)
    for parameter in model.parameters():
        parameter.data *= 4  # logits far from uniform
    return OwnReader(model, vocab_size=3_990, longest=512, eos=0)


def questions() -> list[Request]:
    """Choices behind their questions, letters behind theirs, one choice more than once, one text in another context."""
    generator = np.random.default_rng(1)

    def some(length: int) -> tuple[int, ...]:
        return tuple(generator.integers(1, 3_990, length).tolist())

    found = []
    for number in range(12):
        question, choices = some(20 + 7 * number), [some(length) for length in (1, 3, 9, 9 + number)]
        for option, choice in enumerate([*choices, choices[1]]):
            found.append(Request(f"q{number}", f"cloze/{option}", question + choice, start=len(question)))
        for option, letter in enumerate(some(4)):
            found.append(Request(f"q{number}", f"letters/{option}", (*question, letter), start=len(question)))
        found.append(Request(f"q{number}", "text", question + choices[0]))
        found.append(Request(f"q{number}", "text", choices[2], "site", before=question))
    many = some(60)
    return found + [Request("many", f"{n}", many + some(30), start=60) for n in range(40)]


def test_packed_texts_have_the_results_of_texts_read_alone(reader: OwnReader) -> None:
    columns = score_requests(reader, questions(), NONE)
    assert any(not row.is_plain for row in pack([_text(each) for each in questions()]))
    alone = [score_requests(reader, [request], NONE) for request in questions()]
    for name in MEASURES:
        expected = np.concatenate([each[name] for each in alone])
        if name in ("rank", "top1"):
            assert (columns[name] == expected).mean() > 0.99  # but for ties within rounding
            assert (np.abs(columns[name].astype(int) - expected.astype(int)) <= 1).all()
        else:
            assert np.abs(columns[name] - expected).max() < 2e-4 * (10 if name == "var_logp" else 1), name


def test_neither_order_nor_repetition_changes_a_bit(reader: OwnReader) -> None:
    requests = questions()
    first, again = (score_requests(reader, requests, NONE) for _ in range(2))
    backward = score_requests(reader, requests[::-1], NONE)
    for name in MEASURES:
        parts = np.split(backward[name], np.cumsum(backward["lengths"])[:-1])
        assert first[name].tobytes() == again[name].tobytes() == np.concatenate(parts[::-1]).tobytes()


def test_logits_that_are_no_numbers_make_logps_that_are_none(reader: OwnReader) -> None:
    broken = Llama(SHAPE)
    broken.load_state_dict(reader.model.state_dict())
    broken.lm_head.weight.data[5] = torch.nan
    columns = score_requests(OwnReader(broken, vocab_size=3_990, longest=512, eos=0), questions(), NONE)
    assert np.isnan(columns["logp"]).all()


def _text(request: Request) -> tuple[packing.Ids, packing.Ids]:
    return (request.before or (0,)) + request.ids[: request.start], request.ids[request.start : -1]


def test_every_text_is_in_one_row_once_and_rows_are_no_longer_than_they_may_be() -> None:
    texts = [_text(request) for request in questions()]
    rows = pack(texts)
    assert rows == pack(texts[::-1])
    held = [(row.beginning, continuation) for row in rows for continuation in row.continuations]
    assert sorted(held) == sorted(set(texts))
    assert all(row.length <= packing.ROW or len(row.continuations) == 1 for row in rows)
    assert sum(row.length for row in rows) < 0.6 * sum(len(a) + len(b) for a, b in set(texts))


def test_texts_that_share_only_what_stands_before_all_are_read_alone() -> None:
    rows = pack([((0,), (n,) * 30) for n in range(20)])
    assert all(row.is_plain for row in rows)
    assert len(rows) == 20


def test_a_long_beginning_is_shared_up_to_the_size_of_a_batch() -> None:
    for length, rows in ((1_000, 1), (packing.BATCH, 4)):
        assert len(pack([(tuple(range(length)), (n,) * 30) for n in range(4)])) == rows


def test_batches_keep_the_budget_and_waste_little() -> None:
    generator = np.random.default_rng(2)
    rows = pack([((0,), tuple(generator.integers(1, 9, n).tolist())) for n in generator.integers(1, 400, 300)])
    found = list(batches(rows))
    assert list(itertools.chain(*found)) == rows
    widths = [max(row.length for row in batch) for batch in found]
    assert all(len(batch) == 1 or width * len(batch) <= packing.BATCH for width, batch in zip(widths, found))
    padded = sum(width * len(batch) for width, batch in zip(widths, found))
    assert padded < 1.05 * sum(row.length for row in rows)


def test_a_continuation_sees_the_beginning_and_itself_at_its_own_positions() -> None:
    ids, positions, mask = model_inputs([Row((1, 2), ((3,), (4, 5)))])
    assert ids.tolist() == [[1, 2, 3, 4, 5]]
    assert positions is not None
    assert positions.tolist() == [[0, 1, 2, 2, 3]]
    assert mask is not None
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
