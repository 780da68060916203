from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.context import SuiteContext
from costar.eval.probes import Context, Found, Gap, Score, Tokens
from costar.eval.probes import membership as probe


@pytest.fixture(scope="module")
def context(built: Path) -> Context:
    return SuiteContext(load_suite(built / "suite.toml"), Workspace(built)).of_run("late.nano.d0")


def tokens_of(ids: tuple[int, ...], logp: float = -2.0) -> Tokens:
    n = len(ids)
    same = {
        "mean_logp": np.full(n, -3.0, np.float32),
        "var_logp": np.ones(n, np.float32),
        "lse_top40": np.zeros(n, np.float32),
    }
    return Tokens(
        start=0,
        token_id=np.array(ids, np.int32),
        n_bytes=np.ones(n, np.int32),
        logp=np.full(n, logp, np.float32),
        rank=np.ones(n, np.int32),
        top1=np.ones(n, bool),
        **same,
    )


def found_of(context: Context, logp: float = -2.0) -> Found:
    ledger = {request.key: tokens_of(request.ids, logp) for request in probe.requests(context)}
    return Found(ledger=ledger)


def gaps_of(context: Context, found: Found, attack: str) -> dict[str, str]:
    results = probe.scores(context, found)
    return {each.record_id: each.reason for each in results if isinstance(each, Gap) and each.variant.endswith(attack)}


def test_the_prefix_is_of_records_that_nothing_inserts_and_leaves_half_the_context(context: Context) -> None:
    eos = context.tokenizer.eos_id
    for name, chosen in probe.prefixes(context).items():
        assert chosen
        assert {(subject.perturbation, subject.role) for subject in chosen} == {(name, "main")}
        assert not {subject.record_id for subject in chosen} & context.fates.keys()
    requests = [request for request in probe.requests(context) if request.context == "recall"]
    assert requests
    for request in requests:
        assert (request.before[0], request.before[-1]) == (eos, eos)
        assert len(request.before) <= context.length // 2
    again = [request for request in probe.requests(context) if request.context == "recall"]
    assert again == requests


def test_every_main_record_has_every_score_but_those_before_the_others_no_recall(context: Context) -> None:
    results = list(probe.scores(context, found_of(context)))
    mains = {subject.record_id for subject in context.subjects if subject.role == "main"}
    standing = {subject.record_id for chosen in probe.prefixes(context).values() for subject in chosen}
    scored = {(each.record_id, each.variant) for each in results if isinstance(each, Score)}
    assert len(scored) == len(results) == 6 * len(mains) - len(standing)
    assert {record for record, variant in scored if variant == "attack=recall"} == mains - standing


def test_where_all_records_are_inserted_somewhere_recall_says_so(context: Context) -> None:
    everywhere = replace(context, fates={subject.record_id: frozenset({("late", 0)}) for subject in context.subjects})
    assert not [request for request in probe.requests(everywhere) if request.context == "recall"]
    gaps = gaps_of(everywhere, found_of(everywhere), "recall")
    assert set(gaps) == {""}
    assert "is never inserted, or the first drawn does not fit into half the context" in gaps[""]


def test_the_prefix_ends_at_the_first_record_that_does_not_fit(context: Context) -> None:
    """Records of many lengths: those before it in the order of the hash are taken, whatever their length, and none after."""
    order = [s.record_id for s in probe.prefixes(replace(context, length=10**6))["passages"]]
    free = {s.record_id: s for s in context.subjects}

    def of_lengths(lengths: list[int]) -> list[str]:
        subjects = []
        for record_id, length in zip(order, lengths, strict=False):
            subject = free[record_id]
            name = subject.canonical
            ids = (5,) * length
            subjects.append(replace(subject, renderings={name: replace(subject.renderings[name], ids=ids)}))
        found = probe.prefixes(replace(context, subjects=tuple(reversed(subjects)), length=128))
        return [subject.record_id for subject in found["passages"]]

    assert of_lengths([20, 30, 20, 3, 3]) == order[:2]
    assert of_lengths([62, 1, 1]) == order[:1]
    assert of_lengths([63, 1, 1]) == []
    assert of_lengths([3] * 8) == order


def test_the_prefix_begins_as_texts_do_for_the_model(context: Context) -> None:
    begun = replace(context, first=7)
    eos = context.tokenizer.eos_id
    for theirs, own in zip(probe.requests(begun), probe.requests(context), strict=True):
        assert theirs.before[1:] == own.before[1:]
        assert (theirs.before[:1], own.before[:1]) in (((), ()), ((7,), (eos,)))


def test_a_model_with_other_tokens_has_no_counts_of_the_base(context: Context) -> None:
    foreign = replace(context, counts=lambda: np.zeros(0, np.int64))
    assert set(gaps_of(foreign, found_of(foreign), "dc-pdd").values()) == {
        "no counts of the base for this model's tokens"
    }


def test_a_record_that_is_certain_has_no_ratio_and_one_that_was_refused_has_no_score(context: Context) -> None:
    certain = gaps_of(context, found_of(context, 0.0), "recall")
    assert any("log-likelihood of 0.0" in reason for reason in certain.values())
    found = found_of(context)
    key = next(key for key in found.ledger if key[2] == "eos" and key[0].startswith("passages"))
    refused = replace(found, ledger={k: v for k, v in found.ledger.items() if k != key}, refused={key: "too long"})
    own = [each for each in probe.scores(context, refused) if each.record_id == key[0]]
    assert own == [Gap(key[0], key[1], "", "too long")]
