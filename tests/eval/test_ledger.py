from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from costar.core.models import ModelShape
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.ledger import score_requests
from costar.eval.probes import Request
from costar.eval.reader import OwnReader
from costar.eval.stored import ledger_in
from costar.train.checkpoint import load_checkpoint
from costar.train.config import read_config
from costar.train.export import hf_config
from costar.train.init import init_weights
from costar.train.model import Llama

SHAPE = ModelShape(layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, vocab_size=90, tied=False)


def reader_of(model: Llama) -> OwnReader:
    return OwnReader(model, vocab_size=90, longest=64, eos=0)


@pytest.fixture(scope="module")
def model() -> Llama:
    model = Llama(SHAPE)
    init_weights(model, 3, 0)
    for parameter in model.parameters():
        parameter.data *= 6  # logits far from uniform
    return model.eval()


def texts() -> list[Request]:
    generator = np.random.default_rng(0)
    ids = [tuple(generator.integers(1, 90, n).tolist()) for n in (1, 5, 5, 17, 30)]
    shared = (*ids[3][:-1], 7)
    return [Request(f"r{i}", "text", each) for i, each in enumerate([*ids, shared])]


def test_every_column_equals_its_definition(model: Llama) -> None:
    """One text at a time, by the formulas of the docstring, against batched passes with shared beginnings."""
    columns = score_requests(reader_of(model), texts(), np.arange(90, dtype=np.int32))
    at = 0
    for request in texts():
        with torch.no_grad():
            logits = model(torch.tensor([[0, *request.ids[:-1]]]))[0].double()
        logps = torch.log_softmax(logits, -1).numpy()
        for position, token in enumerate(request.ids):
            row, p = logps[position], np.exp(logps[position])
            larger = int((row > row[token]).sum() + (row[:token] == row[token]).sum())
            assert columns["logp"][at] == pytest.approx(row[token], abs=2e-4)
            assert columns["rank"][at] == 1 + larger
            assert columns["top1"][at] == (larger == 0)
            assert columns["mean_logp"][at] == pytest.approx((p * row).sum(), abs=2e-4)
            assert columns["var_logp"][at] == pytest.approx(
                (p * row**2).sum() - (p * row).sum() ** 2, rel=2e-3, abs=1e-3
            )
            assert columns["lse_top40"][at] == pytest.approx(np.log(np.sort(p)[-40:].sum()), abs=2e-4)
            assert (columns["token_id"][at], columns["position"][at], columns["n_bytes"][at]) == (
                token,
                position,
                token,
            )
            at += 1
    assert at == len(columns["logp"])


def test_the_order_and_company_of_requests_do_not_matter(model: Llama) -> None:
    forward = score_requests(reader_of(model), texts(), np.ones(90, np.int32))
    backward = score_requests(reader_of(model), texts()[::-1], np.ones(90, np.int32))
    parts = np.split(backward["logp"], np.cumsum(backward["lengths"])[:-1])
    assert np.array_equal(forward["logp"], np.concatenate(parts[::-1]))


def test_rank_one_means_the_greedy_choice_and_ties_go_to_the_lower_id() -> None:
    model = Llama(SHAPE)
    for parameter in model.parameters():
        parameter.data.zero_()
    columns = score_requests(reader_of(model), [Request("r", "text", (5, 1, 0))], np.ones(90, np.int32))
    assert columns["rank"].tolist() == [6, 2, 1]
    assert columns["top1"].tolist() == [False, False, True]


def test_extraction_equals_greedy_generation() -> None:
    """The identity behind the probe, against the `generate` of transformers, on a model that half knows its texts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    model = Llama(SHAPE)
    init_weights(model, 4, 0)
    texts = torch.randint(1, 90, (24, 16), generator=torch.Generator().manual_seed(1))
    inputs = torch.cat([torch.zeros(24, 1, dtype=torch.long), texts], dim=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        logits = model(inputs[:12, :-1])  # the other twelve are never seen
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs[:12, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    theirs = LlamaForCausalLM(LlamaConfig(**hf_config(SHAPE, 64, 0))).eval()
    theirs.load_state_dict(model.state_dict())
    columns = score_requests(
        reader_of(model), [Request(f"r{i}", "t", tuple(t)) for i, t in enumerate(texts.tolist())], np.ones(90, np.int32)
    )
    extracted = columns["top1"].reshape(24, 16)[:, 8:].all(axis=1)
    assert set(extracted.tolist()) == {True, False}
    for text, known in zip(texts, extracted):
        prefix = torch.cat([torch.zeros(1, dtype=torch.long), text[:8]])[None]
        made = theirs.generate(
            prefix,
            attention_mask=torch.ones_like(prefix),
            min_new_tokens=8,
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=0,
        )
        assert (made[0, 9:].tolist() == text[8:].tolist()) == known


def test_a_ledger_has_every_token_of_every_main_and_twin(built: Path) -> None:
    ledger = ledger_in(Workspace(built).ledger("late.nano.d0", 96))
    canonical = pq.read_table(built / "insertion" / "records.parquet", partitioning=None)
    counts = dict(zip(canonical["record_id"].to_pylist(), canonical["n_tokens"].to_pylist()))
    rows = [r for r in ledger.to_pylist() if r["rendering"] in ("text", "cloze", "sentence")]
    assert sum(r["context"] == "eos" for r in rows) == sum(counts.values())
    assert {r["context"] for r in rows} == {"eos", "recall"}


def test_measuring_again_gives_the_same_bytes(built_copy: Path) -> None:
    import shutil

    from costar.eval.score import Measurer

    torch.set_num_threads(1)
    workspace = Workspace(built_copy)
    places = [workspace.ledger("early.nano.d0", 48), workspace.scores("early.nano.d0")]

    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for place in places for path in sorted(place.glob("*.parquet"))}

    before = contents()
    for place in places:
        shutil.rmtree(place)
    for step in (24, 48, 72, 96):
        Measurer(load_suite(built_copy / "suite.toml"), workspace).measure(
            read_config(workspace, "early.nano.d0"), step
        )
    assert contents() == before


def test_a_damaged_checkpoint_is_not_measured(built_copy: Path) -> None:
    import shutil

    from costar.core.errors import CostarError
    from costar.eval.score import Measurer

    workspace = Workspace(built_copy)
    shutil.rmtree(workspace.ledger("early.nano.d0", 48))
    path = workspace.checkpoint("early.nano.d0", 48) / "rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 8
    path.write_bytes(data)
    with pytest.raises(CostarError, match="a damaged checkpoint"):
        Measurer(load_suite(built_copy / "suite.toml"), workspace).measure(read_config(workspace, "early.nano.d0"), 48)


def test_loaded_weights_are_those_that_were_saved(built: Path) -> None:
    workspace = Workspace(built)
    config = read_config(workspace, "late.nano.d0")
    first, second = Llama(config.shape), Llama(config.shape)
    for model in (first, second):
        load_checkpoint(workspace.checkpoint(config.run, 96), model, None)
    assert all(
        torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in zip(first.parameters(), second.parameters())
    )
