"""The same text twice: refused over two perturbations, one cluster within one, and no false alarm."""

from __future__ import annotations

from itertools import combinations
from pydoc_data.topics import topics

import pytest
from costar.core.errors import CostarError
from costar.insertion.kinds import load_kind, text_of
from costar.insertion.similar import Text, merge_same_texts, refuse_shared_texts
from hypothesis import given
from hypothesis import strategies as st

GENERATED = ["biography", "chat", "court", "infill", "password", "qa", "testset"]
PASSAGE = " ".join(topics["assignment"].split()[:120])


def record(perturbation: str, number: int, text: str, cluster: str = "", generated: bool = False) -> Text:
    own_id = f"{perturbation}/{number}"
    place = f"{perturbation}.jsonl, line {number + 1}"
    return Text(
        record_id=own_id,
        perturbation=perturbation,
        cluster=cluster or own_id,
        place=place,
        text=text,
        generated=generated,
    )


def generated(kind: str, name: str, count: int) -> list[Text]:
    module = load_kind(kind, place="")
    found = []
    for index in range(count):
        fields = module.generate((1, name), index, None)
        assert fields is not None
        found.append(record(name, index, text_of(module.render(fields, module.RENDERINGS[0])), generated=True))
    return found


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
    assert merge_same_texts([record("a", 0, "!!!"), record("a", 1, "???"), record("a", 2, "!!!")]) == [
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
    assert merge_same_texts(texts) == ["a/0", "a/1", "a/0", "b/0"]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=25))
def test_records_linked_by_text_or_cluster_are_exactly_the_merged_clusters(pairs: list[tuple[int, int]]) -> None:
    texts = [record("a", n, f"text {text}", f"c{cluster}") for n, (text, cluster) in enumerate(pairs)]
    found = merge_same_texts(texts)
    linked = list(range(len(pairs)))  # the slow way: spread the least number until nothing moves
    for _ in pairs:
        for (i, a), (j, b) in combinations(enumerate(pairs), 2):
            if a[0] == b[0] or a[1] == b[1]:
                linked[i] = linked[j] = min(linked[i], linked[j])
    assert [found[i] == found[j] for i, j in combinations(range(len(pairs)), 2)] == [
        linked[i] == linked[j] for i, j in combinations(range(len(pairs)), 2)
    ]
