from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from costar.corpus.tokenizer import Tokenizer
from costar.eval.probes import Found, Gap, Score
from costar.eval.probes import extraction as probe
from hypothesis import given
from hypothesis import strategies as st

from tests.eval.subjects import certain, context_of, found_of, random_reader, subject_of


@pytest.mark.parametrize(("p", "samples"), [(0.9, 1), (0.5, 1), (0.1, 7), (1e-3, 693), (1e-6, 693_147)])
def test_samples_are_those_of_the_paper(p: float, samples: int) -> None:
    """⌈log 0.5 / log(1 − p)⌉, the values that Hayes et al. print."""
    assert 10 ** probe.queries_log10(math.log(p)) == pytest.approx(samples)


@given(st.floats(-5000, 0), st.floats(-5000, 0))
def test_more_likely_needs_no_more_samples_and_nothing_overflows(a: float, b: float) -> None:
    first, second = probe.queries_log10(min(a, b)), probe.queries_log10(max(a, b))
    assert 0 <= second <= first <= 12
    assert probe.queries_log10(-math.inf) == 12


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 20), st.integers(1, 20))
def test_measures_are_their_definitions(top1: list[bool], prefix: int, suffix: int) -> None:
    tokens = certain(range(len(top1)), [-0.1 if hit else -3.0 for hit in top1])
    found = {(variant, metric): value for variant, metric, value in probe.measures(tokens, [prefix], suffix)}
    least = next((k for k in range(len(top1)) if all(top1[k:])), len(top1))
    assert found[("", "extraction_strength")] == pytest.approx(1 - least / len(top1))
    variant = f"prefix={prefix}"
    if prefix < len(top1):
        longest = next((n for n, hit in enumerate(top1[prefix:]) if not hit), len(top1) - prefix)
        assert found[(variant, "longest_match")] == longest
    assert ((variant, "extracted") in found) == (prefix + suffix <= len(top1))
    if prefix + suffix <= len(top1):
        assert found[(variant, "extracted")] == (longest >= suffix)
        samples = 10 ** found[(variant, "queries_log10")]
        for n in probe.SAMPLES:
            assert found[(f"{variant},n={n}", "discoverable")] == (samples <= n * (1 + 1e-9))


def test_a_token_that_sampling_never_draws_costs_a_trillion() -> None:
    tokens = certain([1, 2, 3], [-0.1, -math.inf, -0.1])
    assert probe.sampled_logp(tokens) == -math.inf
    assert {v for _, metric, v in probe.measures(tokens, [0], 3) if metric == "queries_log10"} == {12.0}


def test_the_probability_is_that_of_sampling_among_forty(tokenizer: Tokenizer) -> None:
    """Against the logits themselves, renormalized over the forty largest."""
    reader = random_reader()
    subject = subject_of("passage", {"text": "The quick brown fox jumps over the lazy dog again."}, tokenizer)
    context = context_of([subject], tokenizer)
    tokens = found_of(probe, context, reader).tokens(subject.record_id, "text")
    assert not isinstance(tokens, str)
    ids = subject.renderings["text"].ids
    with torch.no_grad():
        logits = reader.logits(reader.states(torch.tensor([[0, *ids[:-1]]])))[0].double()
    top = logits.topk(40).values.logsumexp(-1)
    own = (logits[torch.arange(len(ids)), torch.tensor(ids)] - top).numpy()
    likely = [place for place, rank in enumerate(tokens.rank) if rank <= 40]
    assert likely
    for place in likely:
        assert probe.sampled_logp(tokens.part(place, place + 1)) == pytest.approx(own[place], abs=1e-4)
    assert np.isneginf(probe.sampled_logp(tokens)) == (len(likely) < len(ids))


def test_a_short_record_is_measured_as_far_as_it_goes_and_a_gap_says_how_many_are(tokenizer: Tokenizer) -> None:
    subject = subject_of("passage", {"text": "Short and sweet."}, tokenizer)
    longer = replace(subject, record_id="longer")
    n = len(subject.renderings["text"].ids)
    context = context_of([subject, longer], tokenizer, prefixes=(1, 50), suffix=50)
    ledger = {
        (each.record_id, "text", "eos"): certain(range(size), [-0.1] * size)
        for each, size in ((subject, n), (longer, 60))
    }
    results = list(probe.scores(context, Found(ledger=ledger)))
    gaps = [each for each in results if isinstance(each, Gap)]
    assert [(gap.variant, gap.reason) for gap in gaps] == [
        ("prefix=1", "1 of 2 texts of set have fewer than 51 tokens"),
    ]
    scores = {
        (each.variant, each.metric): each.value
        for each in results
        if isinstance(each, Score) and each.record_id == subject.record_id
    }
    assert scores == {
        ("", "exact_fraction"): 1.0,
        ("", "extraction_strength"): 1.0,
        ("prefix=1", "longest_match"): n - 1,
    }


def test_metrics_are_those_that_are_declared() -> None:
    tokens = certain(range(10), [-0.1] * 10)
    assert {metric for _, metric, _ in probe.measures(tokens, [2], 3)} == set(probe.METRICS)
