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
from torch import Tensor

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

    Texts that differ in their last token only (the letters of a question) share one pass. Batches are fixed chunks in
    the order of (length, record, rendering), so equal requests give equal bits.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(request.ids[:-1], []).append(number)
    order = sorted(groups, key=lambda ids: (len(ids), *_name(requests[groups[ids][0]])))
    results: list[dict[str, NDArray[Any]]] = [{} for _ in requests]
    for first in range(0, len(order), CHUNK):
        chunk = order[first : first + CHUNK]
        batch = [[requests[number].ids for number in groups[inputs]] for inputs in chunk]
        for inputs, found in zip(chunk, _score_batch(model, batch, eos), strict=True):
            for number, measures in zip(groups[inputs], found, strict=True):
                results[number] = measures
    columns: dict[str, Any] = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    lengths = np.array([len(request.ids) for request in requests])
    columns["position"] = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    columns["token_id"] = np.concatenate([np.array(request.ids, np.int32) for request in requests])
    columns["n_bytes"] = byte_counts[columns["token_id"]]
    columns["lengths"] = lengths
    return columns


def _name(request: Request) -> tuple[str, str]:
    return request.record_id, request.rendering


def _score_batch(
    model: Llama, groups: Sequence[Sequence[tuple[int, ...]]], eos: int
) -> list[list[dict[str, NDArray[Any]]]]:
    """The measures of each text [its length], for groups of texts that share all tokens but the last."""
    width = max(len(texts[0]) for texts in groups)
    targets = torch.full((len(groups), width), eos)
    for row, texts in enumerate(groups):
        targets[row, : len(texts[0])] = torch.tensor(texts[0])
    device = next(model.parameters()).device
    targets = targets.to(device)
    inputs = torch.cat([torch.full((len(groups), 1), eos, device=device), targets[:, :-1]], dim=1)
    with torch.no_grad():
        logits = model(inputs).float()
        logps = torch.log_softmax(logits, dim=-1)
        probabilities = logps.exp()
        mean = (probabilities * logps).sum(2)
        variance = ((probabilities * logps * logps).sum(2) - mean * mean).clamp(min=0)
        top = logps.topk(min(TOP, logps.shape[-1]), dim=-1).values.logsumexp(-1)
        shared = {"mean_logp": mean, "var_logp": variance, "lse_top40": top}
        found = []
        first = {**_of_targets(logits, logps, targets), **shared}
        arrays = {name: values.cpu().numpy() for name, values in first.items()}
        for row, texts in enumerate(groups):
            length = len(texts[0])
            results = [{name: values[row, :length].copy() for name, values in arrays.items()}]
            for ids in texts[1:]:
                last = torch.tensor([[ids[-1]]], device=device)
                at = (slice(row, row + 1), slice(length - 1, length))
                own = {n: v.cpu().numpy()[0, 0] for n, v in _of_targets(logits[at], logps[at], last).items()}
                results.append({name: values.copy() for name, values in results[0].items()})
                for name, value in own.items():
                    results[-1][name][-1] = value
            found.append(results)
    return found


def _of_targets(logits: Tensor, logps: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """What depends on the token that came: [B, T] for logits [B, T, V] and targets [B, T]."""
    own = logits.gather(2, targets[..., None])
    larger = (logits > own).sum(2)
    ids = torch.arange(logits.shape[-1], device=logits.device)
    tied = ((logits == own) & (ids < targets[..., None])).sum(2)
    rank = (1 + larger + tied).int()
    return {"logp": logps.gather(2, targets[..., None]).squeeze(2), "rank": rank, "top1": rank == 1}


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
