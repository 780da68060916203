"""People and chats under measurement, without a suite: contexts for the probes of personal data."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import torch
from costar.core.design import EvalDesign
from costar.core.models import ModelShape
from costar.core.plugins import load_plugin
from costar.corpus.tokenizer import Tokenizer, train_bpe
from costar.eval.measure import Measurement, Places
from costar.eval.probes import PACKAGE, Context, Loaded, Probe, Rendered, Subject
from costar.eval.reader import OwnReader
from costar.insertion.kinds import Pieces, load_kind, text_of
from costar.insertion.records import token_spans
from costar.train.init import init_weights
from costar.train.model import Llama

EOS = "<|endoftext|>"


def small_tokenizer(folder: Path) -> Tokenizer:
    train_bpe([*sorted(topics.values()), string.printable], 512, EOS, folder / "tokenizer.json")
    return Tokenizer(folder / "tokenizer.json", EOS)


def subject_of(
    kind: str, number: int, fields: Mapping[str, Any], tokenizer: Tokenizer, rendering: str = "", pieces: Pieces = ()
) -> Subject:
    """A record in one rendering of its kind, the first by default, or in `pieces`."""
    module = load_kind(kind, place="")
    name = rendering or module.RENDERINGS[0]
    written = pieces or module.render(fields, name)
    text = text_of(written)
    spans = {span["attribute"]: (span["start"], span["end"]) for span in reversed(token_spans(written, tokenizer, ""))}
    ids = tuple(tokenizer.encode(text))
    return Subject(
        record_id=f"{kind}/{number:04d}",
        perturbation=kind,
        kind=kind,
        role="main",
        fields=json.loads(json.dumps(fields)),
        renderings={name: Rendered(text=text, ids=ids, n_bytes=len(text.encode()), spans=spans)},
    )


def generated(kind: str, count: int, tokenizer: Tokenizer, rendering: str = "") -> list[Subject]:
    module = load_kind(kind, place="")
    made = (module.generate((7, kind), number, None) for number in range(count))
    return [
        subject_of(kind, number, module.check(fields, ""), tokenizer, rendering)
        for number, fields in enumerate(made)
        if fields is not None
    ]


def context_of(
    subjects: Sequence[Subject], tokenizer: Tokenizer, inserted: Sequence[str] = (), length: int = 512
) -> Context:
    return Context(
        subjects=tuple(subjects),
        inserted={},
        inserted_ids=frozenset(inserted),
        fates=dict.fromkeys(inserted, frozenset({("perturbed", 0)})),
        design=EvalDesign(probes=(), prefixes=(8,), suffix=8),
        tokenizer=tokenizer,
        length=length,
        seed=7,
    )


def measured(
    name: str, context: Context, reader: OwnReader, folder: Path
) -> tuple[dict[tuple[str, str, str], float], list[dict[str, Any]]]:
    """(record, variant, metric) → value, and the gaps, of one probe by the real way of measuring."""
    probe = cast(Probe, load_plugin(PACKAGE, name, place=""))
    loaded = Loaded(name=name, probe=probe, code=name, own=False)
    tokenizer = context.tokenizer
    counts = np.array([tokenizer.byte_count(token) for token in range(tokenizer.vocab_size)], np.int32)
    folders = {what: folder / what for what in ("ledger", "generated", "scores")}
    for each in folders.values():
        each.mkdir(parents=True, exist_ok=True)
    scores, gaps = Measurement(
        places=Places(**folders, run="a.b.d0", step=1),
        identity="model",
        facts="",
        context=context,
        probes=[loaded],
        longest=reader.longest,
        serves=frozenset({"loglik", "generate"}),
        byte_counts=counts,
        open_reader=lambda: reader,
    ).run()
    rows = pq.read_table(scores).to_pylist()
    assert {row["metric"] for row in rows} <= set(probe.METRICS)
    found = {(row["record_id"], row["variant"], row["metric"]): row["value"] for row in rows}
    assert len(found) == len(rows)
    return found, pq.read_table(gaps).to_pylist()


def reader_that_read(texts: Sequence[Sequence[int]], tokenizer: Tokenizer, steps: int, length: int = 512) -> OwnReader:
    """A small model that was trained on these texts, each between two EOS."""
    torch.manual_seed(0)
    eos, size = tokenizer.eos_id, tokenizer.vocab_size
    model = Llama(ModelShape(layers=2, hidden=64, heads=2, kv_heads=2, ffn=128, vocab_size=size, tied=False))
    init_weights(model, 3, 0)
    width = max(map(len, texts)) + 2
    rows = torch.full((len(texts), width), -100)
    for row, ids in zip(rows, texts, strict=True):
        row[: len(ids) + 2] = torch.tensor([eos, *ids, eos])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(steps):
        logits = model(rows[:, :-1].clamp(min=0))
        torch.nn.functional.cross_entropy(logits.flatten(0, 1)[:, :size], rows[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return OwnReader(model, vocab_size=size, longest=length, eos=eos)
