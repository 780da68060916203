"""Records under measurement, made without a suite: subjects of every kind, a tokenizer, a small model and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType
from typing import Any

import numpy as np
from costar.core.design import EvalDesign
from costar.core.models import ModelShape
from costar.corpus.tokenizer import Tokenizer, train_bpe
from costar.eval.ledger import refusals, score_requests
from costar.eval.probes import Context, Found, Generated, Rendered, Subject, Tokens
from costar.eval.reader import OwnReader
from costar.eval.spans import first_spans
from costar.insertion.kinds import adapted, load_kind, text_of
from costar.insertion.records import token_spans
from costar.insertion.rewordings import from_template
from costar.train.init import init_weights
from costar.train.model import Llama

VOCABULARY = 512
LENGTH = 128


def small_tokenizer(folder: Path) -> Tokenizer:
    train_bpe(topics.values(), VOCABULARY, "<|endoftext|>", folder / "tokenizer.json")
    return Tokenizer(folder / "tokenizer.json", "<|endoftext|>")


def random_reader(seed: int = 3) -> OwnReader:
    """A model of random weights whose logits are far from uniform."""
    model = Llama(ModelShape(layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, vocab_size=VOCABULARY, tied=False))
    init_weights(model, seed, 0)
    for parameter in model.parameters():
        parameter.data *= 6
    return OwnReader(model, vocab_size=VOCABULARY, longest=LENGTH, eos=0)


def subject_of(
    kind: str,
    fields: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    record_id: str = "set/0",
    role: str = "main",
    templates: Mapping[str, str] | None = None,
    canonical: str = "",
) -> Subject:
    """A record as `costar insert` would make it."""
    module = load_kind(kind, place="a test")
    checked = module.check(adapted(module, dict(fields)), record_id)
    names = sorted([*module.RENDERINGS, *(templates or {})], key=lambda name: name != canonical)
    renderings = {}
    for name in names:
        template = (templates or {}).get(name)
        pieces = from_template(template, checked, record_id) if template else module.render(checked, name)
        text = text_of(pieces)
        spans = first_spans(token_spans(pieces, tokenizer, record_id))
        ids = tuple(tokenizer.encode(text))
        renderings[name] = Rendered(text=text, ids=ids, n_bytes=len(text.encode()), spans=spans)
    return Subject(record_id=record_id, perturbation="set", kind=kind, role=role, fields=checked, renderings=renderings)


def context_of(
    subjects: Sequence[Subject],
    tokenizer: Tokenizer,
    *,
    prefixes: tuple[int, ...] = (8,),
    suffix: int = 8,
    length: int = LENGTH,
    inserted: frozenset[str] = frozenset(),
) -> Context:
    return Context(
        subjects=tuple(subjects),
        inserted={"set": inserted},
        inserted_ids=frozenset(),
        design=EvalDesign(probes=(), prefixes=prefixes, suffix=suffix),
        tokenizer=tokenizer,
        length=length,
        seed=1,
    )


def found_of(probe: ModuleType, context: Context, reader: OwnReader) -> Found:
    """What a model says to everything that a probe asks."""
    asked = list({r.key: r for r in getattr(probe, "requests", lambda _: ())(context)}.values())
    refused = refusals(asked, reader.longest, reader.vocab_size)
    requests = [r for r in asked if r.key not in refused]
    ledger: dict[tuple[str, str, str], Tokens] = {}
    if requests:
        columns = score_requests(reader, requests, np.ones(reader.vocab_size, np.int32))
        ends = np.cumsum(columns.pop("lengths"))[:-1]
        columns.pop("position")
        parts = {name: np.split(values, ends) for name, values in columns.items()}
        for number, request in enumerate(requests):
            measured = {name: part[number] for name, part in parts.items()}
            ledger[request.key] = Tokens(start=request.start, **measured)
    generated = {}
    for prompt in getattr(probe, "prompts", lambda _: ())(context):
        (ids,) = reader.generate([[reader.begin, *prompt.ids]], prompt.new_tokens, reader.end)
        text = context.tokenizer.decode(ids)
        for stop in prompt.stops:
            text = text.split(stop)[0]
        generated[prompt.key] = Generated(tuple(ids), text)
    return Found(ledger=ledger, generated=generated, refused=refused)


def certain(ids: Sequence[int], logps: Sequence[float], start: int = 0) -> Tokens:
    """A ledger with given log-probabilities: a token above one half is the most likely one, one at −∞ is not among 40."""
    logp = np.array(logps, np.float32)
    rank = np.where(logp > np.log(0.5), 1, np.where(np.isfinite(logp), 2, 41)).astype(np.int32)
    zeros = np.zeros(len(logp), np.float32)
    return Tokens(
        start=start,
        token_id=np.array(ids, np.int32),
        n_bytes=np.ones(len(logp), np.int32),
        logp=np.where(np.isfinite(logp), logp, -50).astype(np.float32),
        rank=rank,
        top1=rank == 1,
        mean_logp=zeros,
        var_logp=zeros,
        lse_top40=zeros,
    )
