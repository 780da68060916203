"""The ledger: one teacher-forced pass, per token what later measurements need, so that nothing is computed twice.

For token t, with p the model's distribution (logits in float32) after what stands before t in the context that the ledger
names (`eos`: EOS and the text so far; `prompt`: the question before an option; `recall`: other records; `site/ARM`: the training
sequence up to the copy): `logp` = log p(t), `rank` = 1 +
larger logits + equal logits of lower ids, `mean_logp` = Σ p·log p, `var_logp` = Σ p·(log p)² − mean², and `lse_top40` =
log of the probability mass of the 40 likeliest tokens, so that log q(t) under top-40 sampling is logp − lse_top40.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.parquet import write_table
from ..manifests.tables import LEDGER
from .packing import Ids, Row, batches, model_inputs, pack
from .probes import Request, Tokens, too_long
from .reader import Reader

TOP = 40
BLOCK = 32  # logits of which only the largest is looked at first, to find the TOP of all
CHUNK = 1 << 22  # logits at a time: 16 MiB
PIECE = 1 << 18  # of these on a CPU, so that all passes over them but the first find them in its cache

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
            found[request.key] = too_long(length, longest, "tokens to read")
        elif max(request.before + request.ids) >= vocab_size:
            found[request.key] = f"token {max(request.before + request.ids):,} of another tokenizer"
    return found


def score_requests(reader: Reader, requests: Sequence[Request], byte_counts: NDArray[np.int32]) -> dict[str, Any]:
    """Columns of the ledger (without run and step) for the requests, in their order; `byte_counts` [V] is per token.

    What requests share is read once (eval/packing.py), and rows and batches do not depend on the order of the requests,
    so equal requests give equal bits.
    """
    texts = [_text_of(request, reader.begin) for request in requests]
    wanted: dict[tuple[Ids, Ids], set[int]] = {}  # the last tokens of each text: the letters of a question
    for request, text in zip(requests, texts, strict=True):
        wanted.setdefault(text, set()).add(request.ids[-1])
    found: dict[tuple[Ids, Ids, int], dict[str, NDArray[Any]]] = {}
    for batch in batches(pack(texts, share=reader.packs)):
        found |= _score_batch(reader, batch, wanted)
    results = [found[*text, request.ids[-1]] for request, text in zip(requests, texts, strict=True)]
    columns: dict[str, Any] = {name: np.concatenate([result[name] for result in results]) for name in MEASURES}
    columns["position"] = np.concatenate([np.arange(r.start, len(r.ids), dtype=np.int32) for r in requests])
    columns["token_id"] = np.concatenate([np.array(request.ids[request.start :], np.int32) for request in requests])
    columns["n_bytes"] = byte_counts[columns["token_id"]]
    columns["lengths"] = np.array([len(request.ids) - request.start for request in requests])
    return columns


def _text_of(request: Request, begin: int) -> tuple[Ids, Ids]:
    """What the model reads: the beginning, whose last state predicts the first scored token, and what follows it."""
    return (request.before or (begin,)) + request.ids[: request.start], request.ids[request.start : -1]


def _score_batch(
    reader: Reader, batch: Sequence[Row], wanted: Mapping[tuple[Ids, Ids], set[int]]
) -> dict[tuple[Ids, Ids, int], dict[str, NDArray[Any]]]:
    """The measures [n] of each text and last token: of its continuation and of that token."""
    ids, positions, mask = (each if each is None else each.to(reader.device) for each in model_inputs(batch))
    assert ids is not None
    slots: dict[int, int] = {}  # places in the batch → the number of the state
    numbers, targets, keys = [], [], []
    for place, row in enumerate(batch):
        for continuation, within in zip(row.continuations, row.slots(), strict=True):
            own = [slots.setdefault(place * ids.shape[1] + slot, len(slots)) for slot in within]
            for last in sorted(wanted[row.beginning, continuation]):
                numbers += own
                targets += [*continuation, last]
                keys.append((row.beginning, continuation, last))
    with torch.no_grad():
        states = reader.states(ids, positions, mask).flatten(0, 1)[torch.tensor(list(slots), device=reader.device)]
        measures = _measures(reader, states, np.array(numbers), np.array(targets))
    found, at = {}, 0
    for key in keys:
        end = at + len(key[1]) + 1
        found[key] = {name: values[at:end] for name, values in measures.items()}
        at = end
    return found


def _measures(
    reader: Reader, states: Tensor, numbers: NDArray[np.int64], targets: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """The measures [N] of target tokens, each after the state of a number: the logits of a state are computed once."""
    order = np.argsort(numbers, kind="stable")
    numbers, back = numbers[order], np.argsort(order)
    rows, tokens = (torch.from_numpy(each).to(states.device) for each in (numbers, targets[order]))
    step = max(1, CHUNK // reader.vocab_size)
    piece = max(1, PIECE // reader.vocab_size) if states.device.type == "cpu" else step
    parts: list[dict[str, Tensor]] = []
    for first in range(0, len(states), step):
        logits = reader.logits(states[first : first + step])
        for begin in range(0, len(logits), piece):
            x = logits[begin : begin + piece]
            at = first + begin
            low, high = np.searchsorted(numbers, [at, at + len(x)])
            parts.append(_of_piece(x, rows[low:high] - at, tokens[low:high]))
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy()[back] for name in MEASURES}


def _of_piece(logits: Tensor, rows: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """The measures [n] of tokens [n] after the rows [n] of logits [m, V]."""
    own = logits[rows, tokens]
    count = len(logits)
    if len(rows) == count:
        rank = _rank(logits, own[:, None], tokens[:, None])
    else:  # several tokens after one row: no more copies of rows at a time than there are rows
        split = zip(*(torch.split(each, count) for each in (rows, own[:, None], tokens[:, None])), strict=True)
        rank = torch.cat([_rank(logits[number], each, token) for number, each, token in split])
    top = _largest(logits)
    highest = top.amax(1)
    probabilities = torch.softmax(logits, 1)
    below = logits - highest[:, None]  # so that the variance is no small difference of large numbers
    whole = -probabilities.amax(1).log()  # the log of the summed exponentials, less the highest logit
    terms = probabilities * below
    mean = terms.sum(1)
    variance = (torch.linalg.vecdot(terms, below) - mean * mean).clamp(min=0)
    mass = (top - highest[:, None]).logsumexp(1) - whole
    by_row = {"mean_logp": mean - whole, "var_logp": variance, "lse_top40": mass}
    return {
        "logp": own - (highest + whole)[rows],
        "rank": rank,
        "top1": rank == 1,
        **{name: values[rows] for name, values in by_row.items()},
    }


def _rank(logits: Tensor, own: Tensor, tokens: Tensor) -> Tensor:
    """1 + larger logits + equal logits of lower ids, [n] for logits [n, V] and tokens [n, 1]."""
    flags = torch.empty_like(logits)  # floats: comparing into booleans and summing those takes three times as long
    larger = torch.gt(logits, own, out=flags).sum(1).int()
    equal = torch.ge(logits, own, out=flags).sum(1).int() - larger
    tied = (equal > 1).nonzero()[:, 0]
    if len(tied):
        lower = torch.arange(logits.shape[1], device=logits.device) < tokens[tied]
        larger[tied] += ((logits[tied] == own[tied]) & lower).sum(1).int()
    return larger + 1


def _largest(logits: Tensor) -> Tensor:
    """The TOP largest of each row: they stand in the TOP blocks whose largest are the largest."""
    count, size = logits.shape
    blocks = size // BLOCK
    if blocks <= 2 * TOP:
        return logits.topk(min(TOP, size), sorted=False).values
    whole = logits[:, : blocks * BLOCK].reshape(count * blocks, BLOCK)
    chosen = whole.amax(1).view(count, blocks).topk(TOP, sorted=False).indices
    first = torch.arange(0, count * blocks, blocks, device=logits.device)
    candidates = whole.index_select(0, (chosen + first[:, None]).flatten()).view(count, -1)
    return torch.cat([candidates, logits[:, blocks * BLOCK :]], dim=1).topk(TOP, sorted=False).values


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
