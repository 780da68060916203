"""Documents that hold a record are found, as a plain search finds them; look-alikes stay."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import dill
import numpy as np
import pytest
from costar.corpus.decontaminate import (
    FEWEST_TOKENS,
    LEAST,
    TOKENS,
    Hit,
    N,
    RecordSearch,
    Searched,
    WordGrams,
)
from costar.corpus.near import common_words, least_edits
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus import planting
from tests.corpus.test_words import plain_words

RECORD = "The otter on the gate of Velmora looks to the east and holds a copper key in its paw"
LETTERS = st.lists(st.sampled_from("abc"), max_size=60)


def search(*texts: str, crowd: int = 20) -> RecordSearch:
    return RecordSearch((Searched(record_id=text, texts=(text,)) for text in texts), crowd=crowd)


def reasons(hits: Sequence[Hit]) -> dict[tuple[int, str], str]:
    return {(hit.document, hit.record_id): hit.reason for hit in hits}


def longest_shared(record: Sequence[object], document: Sequence[object]) -> int:
    """Length of the longest run that both hold."""
    best, before = 0, [0] * (len(document) + 1)
    for a in record:
        row = [0] + [before[j] + 1 if a == b else 0 for j, b in enumerate(document)]
        best, before = max(best, *row), row
    return best


def plain_search(
    records: Sequence[Sequence[object]], documents: Sequence[Sequence[object]], least: int, run: int
) -> dict:
    """The rule in plain words: a long enough run in common, with its length."""
    found = {}
    for d, document in enumerate(documents):
        for r, record in enumerate(records):
            shared = longest_shared(record, document)
            if len(record) >= least and shared >= min(run, len(record)):
                found[(d, r)] = shared
    return found


@given(st.lists(LETTERS, max_size=5), st.lists(LETTERS, max_size=5))
def test_runs_of_words_are_those_of_a_plain_search(records: list[list[str]], documents: list[list[str]]) -> None:
    index = RecordSearch(
        (Searched(record_id=str(n), texts=(" ".join(words),)) for n, words in enumerate(records)), crowd=10**6
    )
    hits = index.find([". ".join(words) for words in documents])
    found = {(hit.document, int(hit.record_id)): hit.match for hit in hits if hit.reason == "words"}
    assert found == plain_search(records, documents, LEAST, N)
    assert len(hits) == len({(hit.document, hit.record_id) for hit in hits})


IDS = st.lists(st.integers(0, 2), max_size=90)


@given(st.lists(IDS, max_size=4), st.lists(IDS, max_size=4))
def test_runs_of_ids_are_those_of_a_plain_search(records: list[list[int]], documents: list[list[int]]) -> None:
    index = RecordSearch((Searched(record_id=str(n), ids=(ids,)) for n, ids in enumerate(records)), crowd=10**6)
    hits = index.find(
        (),
        np.array([i for each in documents for i in each], np.uint16),
        np.array([len(d) for d in documents], np.int32),
    )
    inner = [ids[1:-1] if len(ids) - 2 >= FEWEST_TOKENS else ids for ids in records]
    assert {(h.document, int(h.record_id)): h.match for h in hits} == plain_search(
        inner, documents, FEWEST_TOKENS, TOKENS
    )


def test_runs_of_words_in_real_text_are_those_of_a_plain_search(shared_data: Path) -> None:
    records = planting.records(shared_data, 12)
    planted = random.Random(3).sample(planting.copies(records, planting.base_texts(shared_data, 5)), 60)
    documents = [each.document for each in planted]
    grams: dict[tuple[str, ...], set[str]] = defaultdict(set)
    sizes = set()
    for record in records:
        words = plain_words(record.texts[0])
        size = min(N, len(words))
        sizes.add(size)
        for at in range(len(words) - size + 1 if size >= LEAST else 0):
            grams[tuple(words[at : at + size])].add(record.record_id)
    expected = set()
    for number, document in enumerate(documents):
        words = plain_words(document)
        for size in sizes:
            for at in range(len(words) - size + 1):
                expected |= {(number, name) for name in grams.get(tuple(words[at : at + size]), ())}
    hits = RecordSearch(records, crowd=10**6).find(documents)
    assert {key for key, reason in reasons(hits).items() if reason == "words"} == expected


@given(st.lists(st.integers(0, 3), max_size=14), st.lists(st.integers(0, 3), max_size=24))
def test_edits_and_common_words_are_those_of_the_tables(record: list[int], window: list[int]) -> None:
    edits, common = list(range(len(record) + 1)), [0] * (len(record) + 1)
    least = (len(record), 0)
    for end, word in enumerate(window, start=1):
        old_edits, old_common = edits, common
        edits, common = [0], [0]
        for i, own in enumerate(record):
            edits.append(min(old_edits[i] + (own != word), old_edits[i + 1] + 1, edits[i] + 1))
            common.append(old_common[i] + 1 if own == word else max(old_common[i + 1], common[i]))
        least = min(least, (edits[-1], end))
    assert common_words(record, window) == common[-1]
    if record:
        assert least_edits(record, window) == least


def test_a_planted_copy_is_found_whatever_its_case_spacing_or_punctuation() -> None:
    for text in (RECORD, RECORD.upper(), RECORD.replace(" ", "\n  "), f"Before. {RECORD}, and after."):
        (hit,) = search(RECORD).find(["nothing here", text])
        assert (hit.document, hit.reason, hit.match, hit.share) == (1, "words", 19, 1.0)


def test_a_copy_with_words_replaced_deleted_and_inserted_is_near() -> None:
    text = RECORD.replace("looks", "stares").replace("copper ", "").replace("paw", "left paw")
    (hit,) = search(RECORD).find([f"He wrote that {text}, but nobody knew why."])
    assert (hit.reason, hit.match) == ("near", 16)


def test_a_record_is_reported_once_with_its_strongest_reason() -> None:
    record = Searched(
        record_id="r", texts=(RECORD, RECORD[:60], RECORD.title()), ids=(list(range(40)), list(range(1, 40)))
    )
    search = RecordSearch([record])
    ids = np.array([7, *range(40), 9])
    assert [hit.reason for hit in search.find([RECORD], ids, np.array([42]))] == ["tokens"]
    assert [hit.reason for hit in search.find([RECORD + " " + RECORD])] == ["words"]


def test_ids_at_the_ends_of_a_record_may_differ() -> None:
    search = RecordSearch([Searched(record_id="r", ids=([5, *range(100, 110), 6],))])
    assert len(search.find((), np.array([1, *range(100, 110), 2]), np.array([12])))
    assert not search.find((), np.array([1, *range(100, 109), 2]), np.array([11]))


def test_nothing_is_found_over_the_border_of_two_documents() -> None:
    half = RECORD.split()
    assert not search(RECORD).find([" ".join(half[:10]), " ".join(half[10:])])
    ids = np.arange(40)
    index = RecordSearch([Searched(record_id="r", ids=(ids.tolist(),))])
    assert index.find((), ids, np.array([40]))
    assert not index.find((), ids, np.array([20, 20]))


def test_records_of_the_same_text_are_all_reported() -> None:
    index = RecordSearch(Searched(record_id=str(n), texts=(RECORD,)) for n in range(50))
    assert len(index.find([RECORD])) == 50


def test_phrases_of_a_template_count_in_whole_records_only() -> None:
    colours, gates = ["blue", "red", "green", "grey", "pink"], ["north", "south", "upper", "lower", "inner"]
    template = "nobody but the keeper of this old town knows that the code of the {gate} gate is {colour} today"
    texts = [template.format(gate=gate, colour=colour) for gate in gates for colour in colours]
    index = search(*texts, crowd=4)
    assert not index.find(
        ["they said that nobody but the keeper of this old town knows that the code of the gate is gone"]
    )
    assert not index.find([template.format(gate="outer", colour="white")])
    for text in texts:
        assert [hit.record_id for hit in index.find([f"so {text} again"])] == [text]


def test_a_sentence_on_somebody_else_stays() -> None:
    text = "The painter Anna Berg was born in Oslo in 1881, studied under Carl Lund and died in Bergen in 1950"
    other = "The painter Olga Vinter was born in Kiev in 1902, studied under Ivan Bek and died in Odessa in 1977"
    assert search(text).find([text.replace("studied", "learned").replace("painter", "artist")])
    assert not search(text).find([other])


def test_a_search_crosses_process_borders() -> None:
    index = dill.loads(dill.dumps(search(RECORD)))
    assert index.find([RECORD])


def test_ids_that_do_not_fit_their_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 ids"):
        search(RECORD).find([RECORD], np.arange(3), np.array([4]))


def test_copies_are_found_and_look_alikes_stay_as_measured(shared_data: Path) -> None:
    """The levels of `bench/decontaminating.py`, less a margin."""
    documents = planting.base_texts(shared_data, 12)
    searched = planting.records(shared_data, 50)
    more, alike = planting.look_alikes(shared_data, searched, documents)
    index = RecordSearch([*searched, *more])
    planted = planting.copies(searched, documents)
    for kind, classes in planting.shares(planted, planting.search(index, [each.document for each in planted])).items():
        for name, (found, count) in classes.items():
            least = 1.0 if "changed" not in kind else 0.4 if name == "8-12" else 0.9
            assert found >= least * count, (kind, name, found, count)
    hits = planting.search(index, [each.document for each in alike])
    near = [[hit for hit in own if hit.reason == "near"] for own in hits]
    for kind, classes in planting.shares(alike, near).items():
        found, count = (sum(pair[side] for pair in classes.values()) for side in (0, 1))
        most = {"other news": 0.1, "other names": 0.05, "seven words": 0.01}.get(kind, 0.0) * count
        assert found <= most, (kind, found, count)
    assert not any(planting.search(index, documents))


def test_word_grams_find_thirteen_words_and_short_records_as_a_whole() -> None:
    words = RECORD.split()
    assert len(WordGrams([RECORD]).shared(" ".join(words[2:15])))
    assert not len(WordGrams([RECORD]).shared(" ".join(words[2:14])))
    assert len(WordGrams(["the code of the north gate is blue"]).shared("so the code of the north gate is blue here"))
    assert not len(WordGrams(["the code is blue"]).shared("the code is blue"))
    assert not len(WordGrams([RECORD]).shared(RECORD.replace("copper", "silver").replace("east", "west")))
