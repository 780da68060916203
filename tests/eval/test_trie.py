from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from costar.core.models import ModelShape
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval import trie
from costar.eval.probes import Rendered, Subject
from costar.eval.probes import secret_rank as probe
from costar.eval.reader import OwnReader
from costar.eval.score import Measurer
from costar.train.init import init_weights
from costar.train.model import Llama

SHAPE = ModelShape(layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, vocab_size=90, tied=False)


@pytest.fixture(scope="module")
def model() -> OwnReader:
    model = Llama(SHAPE)
    init_weights(model, 3, 0)
    for parameter in model.parameters():
        parameter.data *= 6
    return OwnReader(model, vocab_size=90, longest=64, eos=0)


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_a_trie_equals_scoring_every_candidate_as_a_text_of_its_own(model: OwnReader, depth: int) -> None:
    prefix, symbols = [0, 5, 6, 7], [11, 3, 42]
    rows = torch.tensor(list(itertools.product(symbols, repeat=depth)))
    together = trie.candidate_logps(model, prefix, symbols, depth)
    alone = trie.sequence_logps(model, prefix, rows)
    assert len(together) == 3**depth
    np.testing.assert_allclose(together, alone, atol=2e-4)


def test_a_trie_that_exceeds_one_pass_is_split(model: OwnReader, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trie.candidate_logps(model, [0, 5], [11, 3, 42], 5)
    monkeypatch.setattr(trie, "NODES", 12)
    np.testing.assert_allclose(trie.candidate_logps(model, [0, 5], [11, 3, 42], 5), whole, atol=2e-4)


def test_candidates_over_all_strings_sum_to_the_mass_of_their_symbols(model: OwnReader) -> None:
    symbols = list(range(90))
    assert np.exp(trie.candidate_logps(model, [0, 4], symbols, 2)).sum() == pytest.approx(1.0, abs=1e-4)


def measurer(built: Path) -> Measurer:
    return Measurer(load_suite(built / "suite.toml"), Workspace(built))


def subject_of(measurer: Measurer, secret: str, alphabet: str = "0123456789") -> Subject:
    context = measurer.contexts.shared
    carrier = "The code is {secret}."
    before, digits = context.tokenizer.encode("The code is "), context.tokenizer.encode(secret)
    ids = tuple(context.tokenizer.encode(carrier.replace("{secret}", secret)))
    rendered = Rendered(text="", ids=ids, n_bytes=20, spans={"secret": (len(before), len(before) + len(digits))})
    fields = {"secret": secret, "alphabet": alphabet, "carrier": carrier}
    return Subject(
        record_id="s", perturbation="p", kind="password", role="main", fields=fields, renderings={"sentence": rendered}
    )


def random_model(measurer: Measurer) -> OwnReader:
    tokenizer = measurer.contexts.shared.tokenizer
    model = Llama(replace(SHAPE, vocab_size=tokenizer.vocab_size))
    init_weights(model, 9, 0)
    for parameter in model.parameters():
        parameter.data *= 6
    return OwnReader(model, vocab_size=tokenizer.vocab_size, longest=128, eos=tokenizer.eos_id)


def all_ranks(chosen: Measurer, model: OwnReader) -> dict[int, str]:
    """The secret of each rank, over all 16 strings of two symbols out of four."""
    secrets = [a + b for a in "0123" for b in "0123"]
    return {probe.secret_rank(subject_of(chosen, s, "0123"), [], chosen.contexts.shared, model)[0]: s for s in secrets}


def test_ranks_of_all_secrets_are_a_permutation(built: Path) -> None:
    chosen = measurer(built)
    assert sorted(all_ranks(chosen, random_model(chosen))) == list(range(1, 17))


def test_other_inserted_secrets_are_no_candidates(built: Path) -> None:
    chosen = measurer(built)
    model = random_model(chosen)
    by_rank = all_ranks(chosen, model)
    subject = subject_of(chosen, by_rank[2], "0123")
    assert probe.secret_rank(subject, [by_rank[1]], chosen.contexts.shared, model) == (1, 15, "")


def test_candidates_follow_what_the_model_has_before_a_text(built: Path) -> None:
    """A model whose texts begin with another id than EOS ranks secrets as their whole texts after that id."""
    chosen = measurer(built)
    model = random_model(chosen)
    model.begin = 7
    ranks = all_ranks(chosen, model)
    secrets = [ranks[rank] for rank in range(1, 17)]
    rows = []
    for secret in secrets:
        rendered = subject_of(chosen, secret).renderings["sentence"]
        start, end = rendered.spans["secret"]
        rows.append([7, *rendered.ids[:end]])
    logp = model.logits(model.states(torch.tensor(rows))).log_softmax(-1)
    ids = torch.tensor(rows)
    totals = logp[:, start:end].gather(-1, ids[:, start + 1 : end + 1, None]).sum((1, 2)).tolist()
    assert totals == sorted(totals, reverse=True)


@pytest.mark.slow
def test_a_million_candidates_are_ranked_exactly(built: Path) -> None:
    chosen = measurer(built)
    model = random_model(chosen)
    rank, candidates, variant = probe.secret_rank(subject_of(chosen, "271828"), [], chosen.contexts.shared, model)
    assert (candidates, variant) == (1_000_000, "")
    prefix = [chosen.contexts.shared.tokenizer.eos_id, *chosen.contexts.shared.tokenizer.encode("The code is ")]
    symbols = chosen.contexts.shared.tokenizer.encode("0123456789")
    logps = trie.candidate_logps(model, prefix, symbols, 6)
    own = torch.tensor([[symbols[int(d)] for d in "271828"]])
    assert logps[271_828] == pytest.approx(trie.sequence_logps(model, prefix, own)[0], abs=2e-4)
    assert rank == 1 + int((logps > logps[271_828]).sum())


def test_larger_spaces_are_sampled_and_say_so(built: Path) -> None:
    chosen = measurer(built)
    model = random_model(chosen)
    rank, candidates, variant = probe.secret_rank(subject_of(chosen, "31415926"), [], chosen.contexts.shared, model)
    assert variant == "sampled=4095"
    assert candidates == 4096
    assert 1 <= rank <= 4096
    assert math.log2(candidates) - math.log2(rank) <= 12
