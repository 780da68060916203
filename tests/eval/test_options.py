from __future__ import annotations

import random
from dataclasses import replace

import pytest
from costar.corpus.tokenizer import Tokenizer
from costar.eval.options import OPTIONS, drawn_numbers, pools_of
from costar.eval.probes import Context, Subject
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.eval.subjects import context_of, generated


@pytest.fixture(scope="module")
def context(tokenizer: Tokenizer) -> Context:
    people = generated("biography", 60, tokenizer)
    return context_of(people, tokenizer, inserted_ids=[person.record_id for person in people[:25]])


def values(subjects: tuple[Subject, ...] | list[Subject], what: str) -> list[tuple[Subject, str, str]]:
    return [(subject, what, subject.fields[what]) for subject in subjects]


@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 12))
def test_drawn_numbers_differ_and_are_below_the_size(key: int, size: int, count: int) -> None:
    numbers = drawn_numbers((key,), size, count)
    assert len(numbers) == len(set(numbers)) == min(size, count)
    assert all(0 <= number < size for number in numbers)


def test_every_number_is_drawn_equally_often() -> None:
    times = [0] * 30
    for key in range(6000):
        for number in drawn_numbers((key,), 30, 9):
            times[number] += 1
    assert all(abs(each - 1800) < 5 * (1800 * 0.7) ** 0.5 for each in times)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), what=st.sampled_from(["identifier", "university", "nationality"]))
def test_options_are_different_texts_whatever_the_order_of_the_records(context: Context, seed: int, what: str) -> None:
    shuffled = random.Random(seed).sample(context.subjects, len(context.subjects))
    one, other = (pools_of(context, values(each, what)) for each in (list(context.subjects), shuffled))
    for subject in context.subjects:
        answer = subject.fields[what]
        options, right = one.options(subject, what, answer)
        assert (options, right) == other.options(subject, what, answer)
        assert options[right] == answer
        assert options == sorted(set(options))
        assert len(options) == min(OPTIONS, len({s.fields[what] for s in context.subjects}))


def test_wrong_options_share_the_fate_of_the_record(context: Context) -> None:
    pools = pools_of(context, values(context.subjects, "identifier"))
    owner = {subject.fields["identifier"]: subject.record_id for subject in context.subjects}
    for subject in context.subjects:
        options, _ = pools.options(subject, "identifier", subject.fields["identifier"])
        fates = {owner[option] in context.fates for option in options}
        assert fates == {subject.record_id in context.fates}


def test_where_one_fate_has_too_few_texts_options_are_of_all(context: Context) -> None:
    few = replace(context, fates=dict(sorted(context.fates.items())[:3]))
    pools = pools_of(few, values(few.subjects, "identifier"))
    for subject in few.subjects:
        assert len(pools.options(subject, "identifier", subject.fields["identifier"])[0]) == OPTIONS


def test_options_of_several_draws_are_inserted_by_the_same_ones(context: Context) -> None:
    """Two draws: what one reads and the other not is no option beside what both read, or neither."""
    in_draw = [set(list(owner_ids(context))[:40]), set(list(owner_ids(context))[20:])]
    fates = {
        record: frozenset(("perturbed", draw) for draw, own in enumerate(in_draw) if record in own)
        for record in owner_ids(context)
    }
    assert len(set(fates.values())) == 3
    pools = pools_of(replace(context, fates=fates), values(context.subjects, "identifier"))
    owner = {subject.fields["identifier"]: subject.record_id for subject in context.subjects}
    for subject in context.subjects:
        options, _ = pools.options(subject, "identifier", subject.fields["identifier"])
        assert {fates[owner[option]] for option in options} == {fates[subject.record_id]}


def test_rare_fates_share_their_options_and_leave_the_others_theirs(context: Context) -> None:
    ids = owner_ids(context)
    sizes = {"a": 4, "b": 7, "c": 49}
    names = [name for name, size in sizes.items() for _ in range(size)]
    fates = {record: frozenset({(name, 0)}) for record, name in zip(ids, names, strict=True)}
    pools = pools_of(replace(context, fates=fates), values(context.subjects, "identifier"))
    owner = {subject.fields["identifier"]: subject.record_id for subject in context.subjects}
    for subject, name in zip(context.subjects, names, strict=True):
        options, _ = pools.options(subject, "identifier", subject.fields["identifier"])
        of = {next(iter(fates[owner[option]]))[0] for option in options}
        assert of <= ({"c"} if name == "c" else {"a", "b"})
        assert len(options) == OPTIONS


def owner_ids(context: Context) -> list[str]:
    return [subject.record_id for subject in context.subjects]


def test_twins_give_no_options(context: Context) -> None:
    twins = [replace(subject, role="twin") for subject in context.subjects[5:]]
    pools = pools_of(context, values([*context.subjects[:5], *twins], "identifier"))
    assert pools.whole("biography", "identifier") == sorted(s.fields["identifier"] for s in context.subjects[:5])
