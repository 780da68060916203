"""The ledger: one teacher-forced pass, per token what later measurements need, so that nothing is computed twice.

For token t of a record after EOS, with p the model's distribution (logits in float32): `logp` = log p(t), `rank` = 1 +
larger logits + equal logits of lower ids, `mean_logp` = Σ p·log p, `var_logp` = Σ p·(log p)² − mean², and `lse_top40` =
log of the probability mass of the 40 likeliest tokens, so that log q(t) under top-40 sampling is logp − lse_top40.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.parquet import write_table
from ..manifests.tables import LEDGER
from .probes import Request, Tokens
from .reader import Reader

CHUNK = 64
TOP = 40


MEASURES = ("logp", "rank", "top1", "mean_logp", "var_logp", "lse_top40")


def refusals(requests: Iterable[Request], longest: int, vocab_size: int) -> dict[tuple[str, str, str], str]:
    """The requests that a model cannot score, and why; it reads at most `longest` ids below `vocab_size`.

    Those that roll may be longer: they are scored in windows.
    """
    found = {}
    for request in requests:
        length = max(len(request.before), 1) + len(request.ids) - 1
        if not request.ids[request.start :]:
            found[request.key] = "nothing to score: an empty continuation"
        elif length > longest and not request.rolls:
            found[request.key] = f"{length:,} tokens to read, the model reads at most {longest:,}"
        elif max(request.before + request.ids) >= vocab_size:
            found[request.key] = f"token {max(request.before + request.ids):,} of another tokenizer"
    return found


def score_requests(reader: Reader, requests: Sequence[Request], byte_counts: NDArray[np.int32]) -> dict[str, Any]:
    """Columns of the ledger (without run and step) for the requests, in their order; `byte_counts` [V] is per token.

    Texts that differ in their last token only (the letters of a question) share one pass. Batches are fixed chunks in
    the order of (length, record, rendering), so equal requests give equal bits.
    """
    order = sorted(
        range(len(requests)), key=lambda n: (len(requests[n].before) + len(requests[n].ids), requests[n].key)
    )
    results: list[dict[str, NDArray[Any]]] = [{} for _ in requests]
    for first in range(0, len(order), CHUNK):
        chunk = order[first : first + CHUNK]
        for number, measures in zip(chunk, _score_batch(reader, [requests[n] for n in chunk]), strict=True):
            results[number] = measures
    columns: dict[str, Any] = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    lengths = np.array([len(request.ids) - request.start for request in requests])
    columns["position"] = np.concatenate([np.arange(r.start, len(r.ids), dtype=np.int32) for r in requests])
    columns["token_id"] = np.concatenate([np.array(request.ids[request.start :], np.int32) for request in requests])
    columns["n_bytes"] = byte_counts[columns["token_id"]]
    columns["lengths"] = lengths
    return columns


def _score_batch(reader: Reader, requests: Sequence[Request]) -> list[dict[str, NDArray[Any]]]:
    """The measures [length − start] of each request."""
    inputs = [list(r.before or (reader.begin,)) + list(r.ids[:-1]) for r in requests]
    width = max(map(len, inputs))
    ids = torch.zeros(len(requests), width, dtype=torch.long)
    targets = torch.zeros(len(requests), width, dtype=torch.long)
    for row, (request, given) in enumerate(zip(requests, inputs, strict=True)):
        ids[row, : len(given)] = torch.tensor(given)
        targets[row, len(given) - len(request.ids) : len(given)] = torch.tensor(request.ids)
    with torch.no_grad():
        logits = reader.logits(reader.states(ids.to(reader.device)))
        arrays = {n: v.cpu().numpy() for n, v in _measures(logits, targets.to(reader.device)).items()}
    found = []
    for row, (request, given) in enumerate(zip(requests, inputs, strict=True)):
        part = slice(len(given) - len(request.ids) + request.start, len(given))
        found.append({name: values[row, part].copy() for name, values in arrays.items()})
    return found


def _measures(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    logps = torch.log_softmax(logits, dim=-1)
    probabilities = logps.exp()
    mean = (probabilities * logps).sum(2)
    variance = ((probabilities * logps * logps).sum(2) - mean * mean).clamp(min=0)
    top = logps.topk(min(TOP, logps.shape[-1]), dim=-1).values.logsumexp(-1)
    return {**_of_targets(logits, logps, targets), "mean_logp": mean, "var_logp": variance, "lse_top40": top}


def _of_targets(logits: Tensor, logps: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """What depends on the token that came: [B, T] for logits [B, T, V] and targets [B, T]."""
    own = logits.gather(2, targets[..., None])
    larger = (logits > own).sum(2)
    ids = torch.arange(logits.shape[-1], device=logits.device)
    tied = ((logits == own) & (ids < targets[..., None])).sum(2)
    rank = (1 + larger + tied).int()
    return {"logp": logps.gather(2, targets[..., None]).squeeze(2), "rank": rank, "top1": rank == 1}


def ledger_table(run: str, step: int, requests: Sequence[Request], columns: dict[str, Any]) -> pa.Table:
    """Rows of the ledger."""
    lengths = columns["lengths"]
    total = int(lengths.sum())
    table = {
        "run": pa.array([run]).take(pa.array(np.zeros(total, np.int32))),
        "step": np.full(total, step, np.int32),
        "record_id": _repeated([request.record_id for request in requests], lengths),
        "rendering": _repeated([request.rendering for request in requests], lengths),
        "context": _repeated([request.context for request in requests], lengths),
        **{name: columns[name] for name in LEDGER.names if name in columns},
    }
    return pa.table({name: table[name] for name in LEDGER.names}, schema=LEDGER)


def write_ledger(path: Path, run: str, step: int, requests: Sequence[Request], columns: dict[str, Any]) -> None:
    write_table(path, ledger_table(run, step, requests, columns))


def _repeated(values: list[str], lengths: NDArray[np.int64]) -> pa.Array:
    return pa.array(values).take(pa.array(np.repeat(np.arange(len(values)), lengths)))


def by_key(table: pa.Table) -> dict[tuple[str, str, str], Tokens]:
    """The ledger as probes read it: a sequence's rows stand together."""
    names = ("record_id", "rendering", "context")
    keys = list(zip(*(table.column(name).to_pylist() for name in names), strict=True))
    arrays = {name: table.column(name).to_numpy() for name in ("position", "token_id", "n_bytes", *MEASURES)}
    begins = [0, *(i for i in range(1, len(keys)) if keys[i] != keys[i - 1])] if keys else []
    found = {}
    for begin, end in zip(begins, [*begins[1:], len(keys)], strict=True):
        part = {name: values[begin:end] for name, values in arrays.items()}
        found[keys[begin]] = Tokens(start=int(part.pop("position")[0]), **part)
    return found
