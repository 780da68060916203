"""The ledger: one teacher-forced pass, per token what later measurements need, so that nothing is computed twice.

For token t of a record after EOS, with p the model's distribution (logits in float32): `logp` = log p(t), `rank` = 1 +
larger logits + equal logits of lower ids, `mean_logp` = Σ p·log p, `var_logp` = Σ p·(log p)² − mean², and `lse_top40` =
log of the probability mass of the 40 likeliest tokens, so that log q(t) under top-40 sampling is logp − lse_top40.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ..core.parquet import write_table
from ..manifests.tables import LEDGER
from ..train.model import Llama
from .probes import Request, Tokens

CHUNK = 64
TOP = 40


def score_requests(
    model: Llama, requests: Sequence[Request], eos: int, byte_counts: NDArray[np.int32]
) -> dict[str, Any]:
    """Columns of the ledger (without run and step) for the requests, in their order; `byte_counts` [V] is per token.

    Batches are fixed chunks in the order of (length, record, rendering), so equal requests give equal bits.
    """
    order = sorted(
        range(len(requests)), key=lambda i: (len(requests[i].ids), requests[i].record_id, requests[i].rendering)
    )
    results: list[dict[str, NDArray[Any]] | None] = [None] * len(requests)
    for first in range(0, len(order), CHUNK):
        numbers = order[first : first + CHUNK]
        batch = _score_batch(model, [requests[i].ids for i in numbers], eos)
        for row, number in enumerate(numbers):
            length = len(requests[number].ids)
            results[number] = {name: values[row, :length] for name, values in batch.items()}
    done = [result for result in results if result is not None]
    columns: dict[str, Any] = {name: np.concatenate([result[name] for result in done]) for name in done[0]}
    lengths = np.array([len(request.ids) for request in requests])
    columns["position"] = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    columns["token_id"] = np.concatenate([np.array(request.ids, np.int32) for request in requests])
    columns["n_bytes"] = byte_counts[columns["token_id"]]
    columns["lengths"] = lengths
    return columns


def _score_batch(model: Llama, texts: Sequence[tuple[int, ...]], eos: int) -> dict[str, NDArray[Any]]:
    """Arrays [texts, longest] of each measure; what lies beyond a text's end is padding."""
    width = max(len(ids) for ids in texts)
    targets = torch.full((len(texts), width), eos)
    for row, ids in enumerate(texts):
        targets[row, : len(ids)] = torch.tensor(ids)
    device = next(model.parameters()).device
    targets = targets.to(device)
    inputs = torch.cat([torch.full((len(texts), 1), eos, device=device), targets[:, :-1]], dim=1)
    with torch.no_grad():
        logits = model(inputs).float()
        own = logits.gather(2, targets[..., None])
        larger = (logits > own).sum(2)
        ids = torch.arange(logits.shape[-1], device=device)
        tied = ((logits == own) & (ids < targets[..., None])).sum(2)
        logps = torch.log_softmax(logits, dim=-1)
        probabilities = logps.exp()
        mean = (probabilities * logps).sum(2)
        square = (probabilities * logps * logps).sum(2)
        top = logps.topk(min(TOP, logps.shape[-1]), dim=-1).values.logsumexp(-1)
        rank = (1 + larger + tied).int()
    measures = {
        "logp": logps.gather(2, targets[..., None]).squeeze(2),
        "rank": rank,
        "top1": rank == 1,
        "mean_logp": mean,
        "var_logp": (square - mean * mean).clamp(min=0),
        "lse_top40": top,
    }
    return {name: values.cpu().numpy() for name, values in measures.items()}


def write_ledger(path: Path, run: str, step: int, requests: Sequence[Request], columns: dict[str, Any]) -> None:
    lengths = columns["lengths"]
    total = int(lengths.sum())
    table = {
        "run": pa.array([run]).take(pa.array(np.zeros(total, np.int32))),
        "step": np.full(total, step, np.int32),
        "record_id": _repeated([request.record_id for request in requests], lengths),
        "rendering": _repeated([request.rendering for request in requests], lengths),
        "context": pa.array(["eos"]).take(pa.array(np.zeros(total, np.int32))),
        **{name: columns[name] for name in LEDGER.names if name in columns},
    }
    write_table(path, pa.table({name: table[name] for name in LEDGER.names}, schema=LEDGER))


def _repeated(values: list[str], lengths: NDArray[np.int64]) -> pa.Array:
    return pa.array(values).take(pa.array(np.repeat(np.arange(len(values)), lengths)))


def by_request(requests: Sequence[Request], columns: dict[str, Any]) -> dict[tuple[str, str], Tokens]:
    """The ledger as probes read it."""
    ends = np.cumsum(columns["lengths"])
    found = {}
    for request, end, length in zip(requests, ends, columns["lengths"], strict=True):
        part = slice(end - length, end)
        found[(request.record_id, request.rendering)] = Tokens(
            logp=columns["logp"][part], top1=columns["top1"][part], n_bytes=columns["n_bytes"][part]
        )
    return found
