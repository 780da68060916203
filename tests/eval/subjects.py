"""Records under measurement, made without a suite: subjects of every kind, a tokenizer, small models and their results."""

from __future__ import annotations

import json
import string
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import torch
from costar.core.analysis import AnalysisDesign
from costar.core.design import EvalDesign
from costar.core.models import ModelShape
from costar.core.plugins import load_plugin
from costar.corpus.tokenizer import Tokenizer, train_bpe
from costar.eval.loading import PACKAGE
from costar.eval.measure import Measurement, Places
from costar.eval.probes import READABLE, Context, Found, Loaded, Probe, Rendered, Subject, Tokens
from costar.eval.reader import OwnReader
from costar.eval.spans import first_spans
from costar.insertion.kinds import Pieces, adapted, load_kind, text_of
from costar.insertion.records import token_spans
from costar.insertion.rewordings import from_template
from costar.train.init import init_weights
from costar.train.model import Llama

EOS = "<|endoftext|>"
VOCABULARY = 512
LENGTH = 128


def small_tokenizer(folder: Path) -> Tokenizer:
    train_bpe([*sorted(topics.values()), string.printable], VOCABULARY, EOS, folder / "tokenizer.json")
    return Tokenizer(folder / "tokenizer.json", EOS)


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
    """A record as `costar insert` would make it; its perturbation is what its id begins with."""
    module = load_kind(kind, place="a test")
    checked = module.check(adapted(module, json.loads(json.dumps(fields))), record_id)
    renderings = {}
    for name in sorted([*module.RENDERINGS, *(templates or {})], key=lambda name: name != canonical):
        template = (templates or {}).get(name)
        pieces = from_template(template, checked, record_id) if template else module.render(checked, name)
        renderings[name] = rendered_of(pieces, tokenizer)
    perturbation = record_id.split("/", maxsplit=1)[0]
    return Subject(
        record_id=record_id, perturbation=perturbation, kind=kind, role=role, fields=checked, renderings=renderings
    )


def rendered_of(pieces: Pieces, tokenizer: Tokenizer) -> Rendered:
    text = text_of(pieces)
    spans = first_spans(token_spans(pieces, tokenizer, "a test"))
    return Rendered(text=text, ids=tuple(tokenizer.encode(text)), n_bytes=len(text.encode()), spans=spans)


def generated(kind: str, count: int, tokenizer: Tokenizer, canonical: str = "") -> list[Subject]:
    """Synthetic records of a kind, `KIND/0000` and so on."""
    module = load_kind(kind, place="a test")
    made = (module.generate((7, kind), number, None) for number in range(count))
    return [
        subject_of(kind, fields, tokenizer, record_id=f"{kind}/{number:04d}", canonical=canonical)
        for number, fields in enumerate(made)
        if fields is not None
    ]


def context_of(
    subjects: Sequence[Subject],
    tokenizer: Tokenizer,
    *,
    prefixes: tuple[int, ...] = (8,),
    suffix: int = 8,
    length: int = LENGTH,
    inserted: frozenset[str] = frozenset(),
    inserted_ids: Collection[str] = (),
) -> Context:
    """`inserted` names renderings, `inserted_ids` records."""
    return Context(
        subjects=tuple(subjects),
        inserted={subject.perturbation: inserted for subject in subjects},
        fates=dict.fromkeys(inserted_ids, frozenset({("perturbed", 0)})),
        design=EvalDesign(
            probes=(),
            prefixes=prefixes,
            suffix=suffix,
            analysis=AnalysisDesign(primary={}, margins={}, families="perturbation"),
        ),
        tokenizer=tokenizer,
        length=length,
        seed=7,
    )


def measurement(probe: Loaded, context: Context, reader: OwnReader, folder: Path) -> Measurement:
    """The real way of measuring, of one probe, into a folder."""
    tokenizer = context.tokenizer
    folders = {what: folder / what for what in ("ledger", "generated", "scores")}
    for each in folders.values():
        each.mkdir(parents=True, exist_ok=True)
    return Measurement(
        places=Places(**folders, run="a.b.d0", step=1),
        identity="model",
        facts="",
        context=context,
        probes=[probe],
        serves=frozenset({"loglik", "generate", *READABLE}),
        byte_counts=np.array([tokenizer.byte_count(token) for token in range(tokenizer.vocab_size)], np.int32),
        open_reader=lambda: reader,
    )


def found_of(probe: ModuleType, context: Context, reader: OwnReader) -> Found:
    """What a model says to everything that a probe asks."""
    loaded = Loaded(name="probe", probe=cast(Probe, probe), code="", from_user=False)
    with tempfile.TemporaryDirectory() as folder:
        work = measurement(loaded, context, reader, Path(folder))
        ledger, made = work._ledger([loaded]), work._all_generated([loaded])
    return Found(ledger=ledger, generated=made.get("probe", {}), refused=work._refused)


def measured(
    name: str, context: Context, reader: OwnReader, folder: Path
) -> tuple[dict[tuple[str, str, str], float], list[dict[str, Any]]]:
    """(record, variant, metric) → value, and the gaps, of one probe by its name."""
    probe = cast(Probe, load_plugin(PACKAGE, name, place=""))
    loaded = Loaded(name=name, probe=probe, code=name, from_user=False)
    scores, gaps = measurement(loaded, context, reader, folder).run()
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
