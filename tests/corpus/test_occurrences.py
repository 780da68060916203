"""Occurrences of records in a token stream: every maximal match, once, whatever the parts of the stream."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.corpus import audit as audit_module
from costar.corpus import occurrences, token_grams
from costar.corpus.audit import Standing, audit, merge_standing
from costar.corpus.occurrences import (
    CROWD,
    LEAST,
    Found,
    N,
    RecordIds,
    coverage_table,
    find_occurrences,
    load_record_ids,
    merge_found,
    occurrence_table,
)
from costar.corpus.store import TokenStore
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

EOS = 0
Match = tuple[int, int, int, int]


def records_of(texts: Sequence[Sequence[int]]) -> RecordIds:
    return RecordIds(
        record_ids=tuple(f"r{number}" for number in range(len(texts))),
        ids=np.array([token for text in texts for token in text], np.int32),
        offsets=np.cumsum([0, *(len(text) for text in texts)]).astype(np.int64),
    )


def stream(tokens: Sequence[int]) -> NDArray[np.uint16]:
    return np.array(tokens, np.uint16)


def search(tokens: NDArray[np.uint16], records: RecordIds, tasks: int = 1) -> Found:
    edges = [len(tokens) * task // tasks for task in range(tasks + 1)]
    return merge_found([find_occurrences(tokens, a, b, records) for a, b in pairwise(edges)][::-1])


def matches(found: Found) -> list[Match]:
    return list(zip(*(x.tolist() for x in (found.record, found.place, found.within, found.length)), strict=True))


def slow_matches(tokens: Sequence[int], texts: Sequence[Sequence[int]]) -> list[Match]:
    """Every pair of places, one id at a time; no phrase of a template."""
    rows = []
    for number, text in enumerate(texts):
        need = N if len(text) >= N else len(text)
        for place in range(len(tokens)):
            for within in range(len(text)):
                if place and within and tokens[place - 1] == text[within - 1]:
                    continue
                size = 0
                while (
                    within + size < len(text)
                    and place + size < len(tokens)
                    and text[within + size] == tokens[place + size]
                ):
                    size += 1
                if size >= need >= LEAST:
                    rows.append((number, place, within, size))
    return sorted(rows)


def slow_coverage(tokens: Sequence[int], text: Sequence[int]) -> float | None:
    size = min(N, len(text))
    runs = {tuple(tokens[at : at + size]) for at in range(len(tokens))}
    starts = range(len(text) - size + 1)
    return sum(tuple(text[at : at + size]) in runs for at in starts) / len(starts) if size >= LEAST else None


def inner(text: Sequence[int]) -> Sequence[int]:
    return text[1:-1] if len(text) >= audit_module.EDGES else text


def stands(tokens: Sequence[int], text: Sequence[int]) -> bool:
    if len(text) < LEAST:
        return False
    sizes = {len(inner(text)): [inner(text)], audit_module.RUN: [text[at : at + 32] for at in range(len(text) - 31)]}
    runs = {(size, tuple(tokens[at : at + size])) for size in sizes for at in range(len(tokens))}
    return any((size, tuple(run)) in runs for size, wanted in sizes.items() for run in wanted)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    """A stream of documents over few ids, with pieces of the records in it."""
    symbols = draw(st.integers(1, 4))
    ids = st.integers(1, symbols)
    texts = draw(st.lists(st.lists(ids, min_size=1, max_size=45), min_size=1, max_size=6))
    tokens: list[int] = []
    for _ in range(draw(st.integers(0, 8))):
        text = draw(st.sampled_from(texts))
        begin = draw(st.integers(0, len(text) - 1))
        tokens += text[begin : draw(st.integers(begin, len(text)))] + draw(
            st.lists(st.integers(EOS, symbols), max_size=12)
        )
    return [*tokens, EOS], texts


@given(scenes())
def test_every_maximal_match_is_found_as_by_comparing_all_places(scene: tuple[list[int], list[list[int]]]) -> None:
    tokens, texts = scene
    records = records_of(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(occurrences, "CROWD", 10_000)
        patch.setattr(token_grams, "BLOCK", 7)
        patch.setattr(occurrences, "STRIDE", 3)
        patch.setattr(occurrences, "PAIRS", 30_000)
        found = search(stream(tokens), records)
    assert matches(found) == slow_matches(tokens, texts)
    rows = coverage_table(found, records).to_pylist()
    assert [row["coverage"] for row in rows] == [slow_coverage(tokens, text) for text in texts]
    longest = [max([m[3] for m in matches(found) if m[0] == number], default=0) for number in range(len(texts))]
    assert [row["longest"] for row in rows] == longest


@given(scenes(), st.integers(1, 6))
def test_the_number_of_tasks_changes_no_table(scene: tuple[list[int], list[list[int]]], crowd: int) -> None:
    tokens, texts = stream(scene[0]), scene[1]
    records = records_of(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(occurrences, "CROWD", crowd)
        patch.setattr(occurrences, "PAIRS", 100)
        whole = search(tokens, records)
        standing = audit(tokens, 0, len(tokens), records)
        for tasks in (2, 7, len(tokens)):
            parts = search(tokens, records, tasks)
            assert matches(parts) == matches(whole)
            assert occurrence_table(parts, records, 8).equals(occurrence_table(whole, records, 8))
            assert coverage_table(parts, records).equals(coverage_table(whole, records))
            edges = [len(tokens) * task // tasks for task in range(tasks + 1)]
            audits = [audit(tokens, a, b, records) for a, b in pairwise(edges)]
            assert merge_standing(audits[::-1], records) == standing


@given(scenes(), st.integers(1, 6))
def test_a_match_of_phrases_of_a_template_only_is_not_listed_but_covers(
    scene: tuple[list[int], list[list[int]]], crowd: int
) -> None:
    tokens, texts = scene
    sizes = [min(N, len(text)) for text in texts]
    runs = [tuple(text[at : at + size]) for text, size in zip(texts, sizes) for at in range(len(text) - size + 1)]
    rare = {run for run in runs if runs.count(run) <= crowd}
    records = records_of(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(occurrences, "CROWD", crowd)
        patch.setattr(occurrences, "PAIRS", 100)
        found = search(stream(tokens), records)
    expected = [
        (record, place, within, length)
        for record, place, within, length in slow_matches(tokens, texts)
        if any(
            tuple(texts[record][at : at + sizes[record]]) in rare
            for at in range(within, within + length - sizes[record] + 1)
        )
    ]
    assert matches(found) == expected
    assert coverage_table(found, records)["coverage"].to_pylist() == [slow_coverage(tokens, text) for text in texts]


@given(scenes())
def test_the_audit_names_exactly_the_records_that_stand_whole_or_by_32_ids(
    scene: tuple[list[int], list[list[int]]],
) -> None:
    tokens, texts = scene
    found = audit(stream(tokens), 0, len(tokens), records_of(texts))
    assert [each.record_id for each in found] == [f"r{n}" for n, text in enumerate(texts) if stands(tokens, text)]
    for each in found:
        text = texts[int(each.record_id[1:])]
        run = tokens[each.place : each.place + each.length]
        assert any(text[at : at + each.length] == run for at in range(len(text)))


def prose(count: int) -> list[int]:
    """Real text as ids: the words of documentation, by their first appearance; 0 ends a document."""
    words: dict[str, int] = {}
    tokens: list[int] = []
    for key in sorted(topics):
        tokens += [*(words.setdefault(word, len(words) + 1) for word in topics[key].split()), EOS]
    return tokens[:count]


def test_planted_copies_are_found_at_block_borders_and_both_ends_of_the_stream() -> None:
    base = (prose(70_000) * 4)[:140_000]
    copy = list(range(30_001, 30_061))
    places = [0, 65_536 - 30, 65_536 * 2 - 60, 65_536 * 2 + 1, 139_940]
    for place in places:
        base[place : place + 60] = copy
    found = search(stream(base), records_of([copy, copy[:20]]), 3)
    assert matches(found) == [(0, p, 0, 60) for p in places] + [(1, p, 0, 20) for p in places]
    rows = occurrence_table(found, records_of([copy, copy[:20]]), 256).to_pylist()
    assert rows[1] == {"record_id": "r0", "sequence": 255, "start": 226, "match": 60}
    covered = coverage_table(found, records_of([copy, copy[:20]])).to_pylist()
    assert covered[0] == {"record_id": "r0", "n_tokens": 60, "longest": 60, "coverage": 1.0, "occurrences": 5}


def test_real_prose_is_matched_with_itself_and_the_audit_sees_the_pieces() -> None:
    base = prose(60_000)
    records = records_of([base[at : at + 50] for at in range(100, 50_000, 5_000)] + [[*range(40_000, 40_050)]])
    texts = [records.ids[a:b].tolist() for a, b in zip(records.offsets, records.offsets[1:])]
    whole = [text for text in texts if EOS not in text]
    found = search(stream(base), records_of(whole), 2)
    rows = coverage_table(found, records_of(whole)).to_pylist()
    assert [row["coverage"] for row in rows] == [1.0] * (len(whole) - 1) + [0.0]
    assert (rows[-1]["longest"], rows[-1]["occurrences"]) == (0, 0)
    assert len(audit(stream(base), 0, len(base), records_of(whole))) == len(whole) - 1


def test_a_match_ends_where_a_document_ends() -> None:
    text = list(range(1, 41))
    tokens = [*text[:25], EOS, *text[25:], EOS]
    assert matches(search(stream(tokens), records_of([text]))) == [(0, 0, 0, 25), (0, 26, 25, 15)]
    assert audit(stream(tokens), 0, len(tokens), records_of([text])) == []


def test_short_records_are_found_whole_or_not_at_all() -> None:
    texts = [[1, 2, 3, 4], [1, 2, 3, 4, 5], list(range(1, 13)), list(range(1, 14))]
    tokens = stream([9, *range(1, 13), 9, EOS])
    rows = coverage_table(search(tokens, records_of(texts)), records_of(texts)).to_pylist()
    assert [row["coverage"] for row in rows] == [None, 1.0, 1.0, 0.0]
    assert [row["longest"] for row in rows] == [0, 5, 12, 0]
    assert [row["occurrences"] for row in rows] == [0, 1, 1, 0]


def test_the_audit_looks_past_the_first_and_last_id_that_merged_with_the_context() -> None:
    text = list(range(1, 21))
    tokens = stream([50, *text[1:-1], 51, EOS])
    found = audit(tokens, 0, len(tokens), records_of([text, text[:9], text[1:10]]))
    assert found == [
        Standing(record_id="r0", n_tokens=20, place=1, length=18),
        Standing(record_id="r2", n_tokens=9, place=1, length=9),
    ]
    assert str(found[0]) == "18 of the 20 tokens of r0 in a row at token 1"
    assert audit(tokens, 0, len(tokens), records_of([text[1:10]]), least=10) == []


def test_a_phrase_of_many_records_covers_all_of_them_and_lists_none() -> None:
    phrase = list(range(1, 21))
    texts = [[*phrase, 100 + number, 1_000 + number] for number in range(CROWD + 1)]
    tokens = stream([*phrase, EOS] * 40 + [*texts[3], EOS])
    records = records_of(texts)
    found = search(tokens, records, 2)
    assert matches(found) == [(3, 840, 0, 22)]
    rows = coverage_table(found, records).to_pylist()
    assert rows[0] == {"record_id": "r0", "n_tokens": 22, "longest": N, "coverage": 0.8, "occurrences": 0}
    assert rows[3] == {"record_id": "r3", "n_tokens": 22, "longest": 22, "coverage": 1.0, "occurrences": 1}


def test_equal_texts_of_many_records_are_audited_though_not_listed() -> None:
    text = list(range(1, 41))
    records = records_of([text] * (CROWD + 1))
    tokens = stream([*text, EOS])
    assert matches(search(tokens, records)) == []
    assert len(audit(tokens, 0, len(tokens), records)) == CROWD + 1


def test_hashes_that_collide_hide_no_match_and_make_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """With base 1 every order of the same ids hashes alike."""
    text = list(range(1, 14))
    turned = text[::-1]
    monkeypatch.setattr(token_grams, "multiplier", lambda number: 1 if number == 0 else 3 + 2 * number)
    tokens = stream([*turned, EOS, *text, EOS])
    assert matches(search(tokens, records_of([text]))) == [(0, 14, 0, 13)]
    assert matches(search(tokens, records_of([text, turned]))) == [(0, 14, 0, 13), (1, 0, 0, 13)]


def test_nothing_in_nothing_gives_empty_tables_of_the_schema() -> None:
    for texts in ([], [[1, 2]], [list(range(1, 30))]):
        records = records_of(texts)
        found = search(stream([]), records)
        assert len(occurrence_table(found, records, 8)) == 0
        assert len(coverage_table(found, records)) == len(texts)
        assert audit(stream([]), 0, 0, records) == []
    assert pickle.loads(pickle.dumps(records)).record_ids == records.record_ids


def write_tables(folder: Path, rows: Sequence[tuple[str, str, list[int]]], texts: dict[str, str]) -> tuple[Path, Path]:
    pq.write_table(pa.table({"record_id": list(texts), "text": list(texts.values())}), folder / "records.parquet")
    names, written, ids = zip(*rows, strict=True)
    lists = pa.array(ids, pa.list_(pa.int32()))
    table = pa.table({"record_id": names, "text": written, "token_ids": lists})
    pq.write_table(table, folder / "renderings.parquet")
    return folder / "records.parquet", folder / "renderings.parquet"


def test_the_canonical_rendering_is_the_first_with_the_text_of_the_record(tmp_path: Path) -> None:
    rows = [
        ("b", "form", [9]),
        ("b", "text b", [1, 2]),
        ("a", "text a", [3]),
        ("b", "text b", [8]),
        ("x", "text a", [7]),
    ]
    paths = write_tables(tmp_path, rows, {"a": "text a", "b": "text b"})
    found = load_record_ids(*paths)
    assert (found.record_ids, found.ids.tolist(), found.offsets.tolist()) == (("a", "b"), [3, 1, 2], [0, 1, 3])
    write_tables(tmp_path, rows, {"a": "text a", "b": "other"})
    with pytest.raises(CostarError, match="no rendering of b"):
        load_record_ids(*paths)


def test_the_records_of_a_built_suite_stand_in_its_store_by_fewer_than_13_words_only(built: Path) -> None:
    records = load_record_ids(built / "insertion" / "records.parquet", built / "insertion" / "renderings.parquet")
    tokens = TokenStore.open(built / "corpus").tokens
    decode = Tokenizer.from_file(str(built / "corpus" / "tokenizer.json")).decode
    assert records.lengths.tolist() == pq.read_table(built / "insertion" / "records.parquet")["n_tokens"].to_pylist()
    assert audit(tokens, 0, len(tokens), records, run=1_000) == []
    found = find_occurrences(tokens, 0, len(tokens), records)
    assert found.length.max() > N  # of this small vocabulary, many ids are few words
    for place, length in zip(found.place.tolist(), found.length.tolist(), strict=True):
        assert len(decode(tokens[place : place + length].tolist()).split()) < N + 2  # the first and last may be cut
