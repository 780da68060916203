"""Similar records: refused over two perturbations, one cluster within one, and no false alarm."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import zstandard
from costar.core.errors import CostarError
from costar.insertion.kinds import adapted, identities_of, load_kind, prose_of, text_of
from costar.insertion.similar import CROWD, MANY, Text, compare_texts, join_similar_records
from costar.insertion.similar import refuse_shared_texts as refuse
from hypothesis import given
from hypothesis import strategies as st

GENERATED = ["biography", "chat", "court", "infill", "password", "qa", "testset"]
PASSAGE = " ".join(topics["assignment"].split()[:120])
WORDS = re.findall(r"\w+", " ".join(topics["objects"].split()[:140]))[:120]


def record(perturbation: str, number: int, text: str, cluster: str = "", generated: bool = False, **more: Any) -> Text:
    own_id = f"{perturbation}/{number}"
    place = f"{perturbation}.jsonl, line {number + 1}"
    return Text(
        record_id=own_id,
        perturbation=perturbation,
        cluster=cluster or own_id,
        place=place,
        text=text,
        generated=generated,
        **more,
    )


def of_kind(kind: str, name: str, rows: Sequence[Mapping[str, Any]], generated: bool = False) -> list[Text]:
    """Rows as records of a kind, as the step that makes records sees them."""
    module = load_kind(kind, place="")
    found = []
    for index, row in enumerate(rows):
        fields = module.check(row, name)
        text = text_of(module.render(fields, module.RENDERINGS[0]))
        more = {"prose": prose_of(module, fields), "identities": identities_of(module, fields)}
        template = getattr(module, "TEMPLATE", False)
        found.append(record(name, index, text, generated=generated, template=template, **more))
    return found


def refuse_shared_texts(texts: Sequence[Text], overlaps: set[frozenset[str]]) -> None:
    refuse(texts, compare_texts(texts), overlaps)


def joined(texts: Sequence[Text]) -> list[str]:
    return join_similar_records(texts, compare_texts(texts))


def generated(kind: str, name: str, count: int) -> list[Text]:
    module = load_kind(kind, place="")
    length = 6 if kind == "password" else None
    rows = [module.generate((1, name), index, length) for index in range(count)]
    return of_kind(kind, name, [row for row in rows if row is not None], generated=True)


def passages(name: str, first: int, count: int) -> list[Text]:
    """Real text: consecutive pieces of documentation."""
    words = " ".join(topics[key] for key in sorted(topics)).split()
    return [record(name, n, " ".join(words[(first + n) * 60 : (first + n + 1) * 60])) for n in range(count)]


@pytest.mark.parametrize(
    "other",
    [
        PASSAGE,
        PASSAGE.upper().replace(" ", "\n"),
        PASSAGE.replace(",", ";"),
        " ".join(PASSAGE.split()[:70]),
        "Before it: " + PASSAGE + " And behind it.",
        " ".join("other" if n % 60 == 30 else word for n, word in enumerate(PASSAGE.split())),
    ],
    ids=["same", "case and lines", "punctuation", "its beginning", "inside another", "two words changed"],
)
def test_a_text_in_two_perturbations_is_refused_with_both_places_and_the_mend(other: str) -> None:
    texts = [*passages("a", 200, 3), record("a", 3, PASSAGE), *passages("b", 210, 3), record("b", 3, other)]
    with pytest.raises(CostarError) as error:
        refuse_shared_texts(texts, set())
    assert error.value.place == "b.jsonl, line 4"
    assert "a/3 (a.jsonl, line 4)" in error.value.found
    assert 'overlaps = ["a"] in [perturbation.b]' in error.value.mend
    refuse_shared_texts(texts, {frozenset({"a", "b"})})
    with pytest.raises(CostarError):
        refuse_shared_texts(texts, {frozenset({"a", "c"})})


@pytest.mark.parametrize("text", ["No.", "the red door", "!!!", "and so on " * 30], ids=str)
def test_short_repetitive_and_wordless_texts_are_found_too(text: str) -> None:
    with pytest.raises(CostarError, match="100%"):
        refuse_shared_texts([record("a", 0, text), record("b", 0, text)], set())


def test_a_text_that_one_perturbation_repeats_is_found_in_another() -> None:
    many = [record("a", n, PASSAGE) for n in range(60)]
    with pytest.raises(CostarError, match="b/0 shares 100% of its text with a/0"):
        refuse_shared_texts([*many, record("b", 0, PASSAGE)], set())


def test_texts_without_a_word_are_compared_by_their_signs() -> None:
    refuse_shared_texts([record("a", 0, "!!!"), record("b", 0, "???")], set())
    assert joined([record("a", 0, "!!!"), record("a", 1, "???"), record("a", 2, "!!!")]) == [
        "a/0",
        "a/1",
        "a/0",
    ]


def test_nothing_is_compared_within_a_perturbation() -> None:
    refuse_shared_texts([record("a", 0, PASSAGE), record("a", 1, PASSAGE)], set())
    refuse_shared_texts([], set())


def test_500_records_of_every_kind_and_real_passages_are_no_false_alarm() -> None:
    refuse_shared_texts([*passages("p", 0, 500), *(t for kind in GENERATED for t in generated(kind, kind, 500))], set())


@pytest.mark.parametrize("kind", GENERATED)
def test_two_small_perturbations_of_one_generator_are_no_false_alarm(kind: str) -> None:
    for count in (5, 20, 45):
        refuse_shared_texts(generated(kind, "a", count) + generated(kind, "b", count), set())


def test_the_same_words_within_a_perturbation_are_one_cluster() -> None:
    texts = [record("a", 0, PASSAGE), record("a", 1, "other"), record("a", 2, PASSAGE.upper()), record("b", 0, PASSAGE)]
    assert joined(texts) == ["a/0", "a/1", "a/0", "b/0"]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=25))
def test_records_linked_by_text_or_cluster_are_exactly_the_merged_clusters(pairs: list[tuple[int, int]]) -> None:
    texts = [record("a", n, f"text {text}", f"c{cluster}") for n, (text, cluster) in enumerate(pairs)]
    found = joined(texts)
    linked = list(range(len(pairs)))  # the slow way: spread the least number until nothing moves
    for _ in pairs:
        for (i, a), (j, b) in combinations(enumerate(pairs), 2):
            if a[0] == b[0] or a[1] == b[1]:
                linked[i] = linked[j] = min(linked[i], linked[j])
    assert [found[i] == found[j] for i, j in combinations(range(len(pairs)), 2)] == [
        linked[i] == linked[j] for i, j in combinations(range(len(pairs)), 2)
    ]


@pytest.mark.parametrize("kind", GENERATED)
@pytest.mark.parametrize("count", [132, 3_000])
def test_generated_records_stay_clusters_of_their_own(kind: str, count: int) -> None:
    texts = generated(kind, kind, count)
    sizes = Counter(joined(texts))
    assert max(sizes.values()) <= 2  # an e-mail address may come twice
    assert len(sizes) >= 0.99 * count


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("Quite other words come first. " + " ".join(WORDS[20:33]) + " and others behind.", True),
        ("Quite other words come first. " + " ".join(WORDS[20:31]) + " and others behind.", False),
        (" ".join("other" if n % 12 == 11 else word for n, word in enumerate(WORDS)), False),
        (" ".join("other" if n % 30 == 29 else word for n, word in enumerate(WORDS)), True),
    ],
    ids=["13 words", "11 words", "every 12th word changed", "every 30th word changed"],
)
def test_a_shared_passage_or_a_near_duplicate_within_a_perturbation_joins(other: str, same: bool) -> None:
    texts = of_kind("passage", "a", [{"text": text} for text in (" ".join(WORDS), "something else", other)])
    assert joined(texts) == ["a/0", "a/1", "a/0" if same else "a/2"]


def test_near_duplicates_join_without_a_passage_of_their_own_unless_a_template_wrote_them() -> None:
    other = " ".join("other" if n % 25 == 24 else word for n, word in enumerate(WORDS))
    assert joined([record("a", 0, " ".join(WORDS)), record("a", 1, other)]) == ["a/0", "a/0"]
    assert joined([record("a", n, text, template=True) for n, text in enumerate((" ".join(WORDS), other))]) == [
        "a/0",
        "a/1",
    ]


def test_a_phrase_of_many_records_joins_none() -> None:
    phrase, words = " ".join(WORDS[:13]), WORDS
    for count, same in ((3, True), (4, False)):
        own = [f"{phrase} {' '.join(f'{word}{n}' for word in words[:30])}" for n in range(count)]
        others = [f"{' '.join(f'{word}x{n}' for word in words[:30])}" for n in range(20)]
        texts = of_kind("passage", "a", [{"text": text} for text in own + others])
        assert len(set(joined(texts)[:count])) == (1 if same else count)
    many = of_kind("passage", "a", [{"text": f"{phrase} {n} {' '.join(f'{w}{n}' for w in words)}"} for n in range(500)])
    assert len(set(joined(many))) == 500 > MANY


def test_chats_share_phrases_of_conversation_and_stay_apart() -> None:
    greeting = "Hi there, it is so very nice to meet you, what do you do for a living?"
    words = WORDS
    rows = [{"turns": [greeting, *(" ".join(f"{w}{n}" for w in words[k : k + 9]) for k in range(9))]} for n in (0, 1)]
    assert joined(of_kind("chat", "a", rows)) == ["a/0", "a/1"]


@pytest.mark.parametrize(
    ("kind", "first", "second", "same"),
    [
        (
            "biography",
            {"name": "Ada Quill", "email": "q@example.org"},
            {"name": "A. Q.", "email": "Q@example.org "},
            True,
        ),
        ("biography", {"name": "Ada Quill", "identifier": "77"}, {"name": "Ada Reed", "identifier": "77"}, True),
        ("biography", {"name": "Ada Quill", "birthplace": "X"}, {"name": "ADA  QUILL", "birthplace": "Y"}, True),
        ("biography", {"name": "Ada", "birthplace": "X"}, {"name": "Ada", "birthplace": "Y"}, False),
        ("biography", {"name": "Ada Quill", "birthplace": "X"}, {"name": "Ada Reed", "birthplace": "X"}, False),
        ("chat", {"username": "owl", "turns": ["a", "b"]}, {"username": "owl", "turns": ["c", "d"]}, True),
        ("chat", {"username": "User 1", "turns": ["a", "b"]}, {"username": "User 1", "turns": ["c", "d"]}, False),
        (
            "court",
            {"text": "Ada Quill sued.", "attributes": {"name": "Ada Quill"}},
            {"text": "Here Ada Quill lost.", "attributes": {"name": "Ada Quill"}},
            True,
        ),
    ],
)
def test_only_values_that_identify_a_person_join(
    kind: str, first: dict[str, Any], second: dict[str, Any], same: bool
) -> None:
    texts = of_kind(kind, "a", [first, second])
    assert joined(texts) == ["a/0", "a/0" if same else "a/1"]
    assert joined(of_kind(kind, "a", [first]) + of_kind(kind, "b", [second])) == ["a/0", "b/0"]


def test_a_value_of_more_than_a_crowd_identifies_nobody() -> None:
    rows = [{"name": f"P{n} Q", "email": "office@example.org"} for n in range(CROWD + 1)]
    assert len(set(joined(of_kind("biography", "a", rows)))) == CROWD + 1
    assert len(set(joined(of_kind("biography", "a", rows[:CROWD])))) == 1


def test_users_secrets_in_one_carrier_stay_apart() -> None:
    carrier = "The long access code that opens the old door of the archive in the town hall is {secret}."
    rows = [{"secret": f"{n:04d}", "alphabet": "0123456789", "carrier": carrier} for n in range(30)]
    assert len(set(joined(of_kind("password", "a", rows)))) == 30


def test_pairs_are_counted_alike_in_several_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*passages("a", 0, 50), *passages("b", 0, 50)]
    once = compare_texts(texts)
    monkeypatch.setattr("costar.insertion.similar.PAIRS", 100)
    again = compare_texts(texts)
    assert sorted(zip(*again.pairs.tolist(), again.counts.tolist(), strict=True)) == sorted(
        zip(*once.pairs.tolist(), once.counts.tolist(), strict=True)
    )
    assert len(once.counts) == 50


@pytest.mark.parametrize(
    ("kind", "file", "least", "largest"),
    [
        ("testset", "testsets/boolq", 0.85, 10),
        ("testset", "testsets/hellaswag", 0.85, 4),
        ("testset", "testsets/mmlu", 0.85, 30),
        ("qa", "testsets/wikidata_qa", 0.99, 5),
        ("qa", "perturb/tofu", 0.99, 5),
        ("chat", "perturb/personachat", 0.99, 2),
        ("passage", "perturb/passages_popular", 0.99, 3),
        ("biography", "perturb/bios_us_legislators", 0.99, 2),
    ],
)
def test_real_sets_fall_into_small_clusters(
    shared_data: Path, kind: str, file: str, least: float, largest: int
) -> None:
    with (shared_data / f"{file}.jsonl.zst").open("rb") as data:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(data), encoding="utf-8", newline="\n")
        rows = [json.loads(line) for line in lines]
    fit = []
    module = load_kind(kind, place="")
    for row in (adapted(module, row) for row in rows):
        try:
            module.check(row, "")
        except (CostarError, KeyError):
            continue
        fit.append(row)
    sizes = Counter(joined(of_kind(kind, "a", fit)))
    assert len(sizes) >= least * len(fit) > 300
    assert max(sizes.values()) <= largest
