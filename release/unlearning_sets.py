"""What is to be forgotten and what is to stay: the inserted records of an arm in halves, held-out records, and base text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import keyed_hash
from ..corpus.store import TokenStore
from ..corpus.tokenizer import Tokenizer
from ..eval.options import drawn_numbers
from ..eval.probes import Tokens

RETAINED = 512  # documents of the base
REPLACEMENT = "\ufffd"  # what a part of a character is decoded to
LONGEST_HEAD = 64  # tokens of a record that a continuation is asked after
MIN_K = 0.4  # share of the tokens, as open-unlearning and MUSE take it
Row = dict[str, Any]
Logs = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Rows of records: `forget` and `keep` are the halves of the inserted ones, `holdout` was never inserted."""

    forget: Sequence[Row]
    keep: Sequence[Row]
    holdout: Sequence[Row]


def divided(rows: Iterable[Row], *key: int | str) -> Sets:
    """Halve the inserted clusters of every perturbation, level and stratum by keyed hash; whole clusters, none in both.

    Of an odd number the one in the middle goes where its own hash says.
    """
    ordered = sorted(rows, key=lambda row: str(row["record_id"]))
    members = [row for row in ordered if row["split"] == "member"]
    cells: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    known: set[str] = set()
    for row in members:
        if row["cluster_id"] not in known:
            known.add(row["cluster_id"])
            cells[(row["perturbation"], row["level"], row["stratum"])].append(row["cluster_id"])
    forgotten: set[str] = set()
    for clusters in cells.values():
        clusters.sort(key=lambda cluster: keyed_hash(*key, "forget", cluster))
        extra = len(clusters) % 2 and keyed_hash(*key, "odd", clusters[len(clusters) // 2]) % 2
        forgotten |= set(clusters[: len(clusters) // 2 + extra])
    return Sets(
        forget=[row for row in members if row["cluster_id"] in forgotten],
        keep=[row for row in members if row["cluster_id"] not in forgotten],
        holdout=[row for row in ordered if row["level"] == 0],
    )


def record_rows(rows: Iterable[Row], eos: str) -> list[Row]:
    """Whole records as completions: EOS is the prefix and the end, so that every token of the record is scored as after
    EOS in training, and the one that open-unlearning leaves out is EOS."""
    return [_named(row) | {"prefix": eos, "text": row["text"] + eos} for row in rows]


def halved_rows(rows: Iterable[Row], tokenizer: Tokenizer, eos: str) -> list[Row]:
    """Records cut in two: EOS and the first half of the tokens are the prefix, the rest is to be written by the model."""
    found = []
    for row in rows:
        cut = _head(tokenizer, row["text"])
        if cut:
            found.append(_named(row) | {"prefix": eos + row["text"][:cut], "text": row["text"][cut:]})
    return found


def _head(tokenizer: Tokenizer, text: str) -> int:
    """Where to cut a text: after at most half of its tokens, where the head alone has the ids that it has in the text."""
    ids, offsets = tokenizer.encode_with_offsets(text)
    for size in range(min(len(ids) // 2, LONGEST_HEAD), 0, -1):
        cut = offsets[size - 1][1]
        if offsets[size][0] == cut and tokenizer.encode(text[:cut]) == ids[:size]:
            return cut
    return 0


def _named(row: Row) -> Row:
    names = ("record_id", "perturbation", "kind", "cluster_id", "stratum", "level", "licence")
    return {name: row[name] for name in names}


def retained_rows(store: TokenStore, tokenizer: Tokenizer, length: int, eos: str, seed: int) -> Iterator[Row]:
    """Documents of the base by keyed hash, in its order, each cut to what a sequence holds between two EOS.

    They are read from the tokens, which every corpus has. A cut inside a character takes that character away.
    """
    for number in sorted(drawn_numbers((seed, "retain"), len(store.sizes), RETAINED)):
        start = int(store.starts[np.array(number)])
        ids = store.tokens[start : start + min(int(store.sizes[number]), length - 2)].tolist()
        text = tokenizer.decode([each for each in ids if each != tokenizer.eos_id]).rstrip(REPLACEMENT)
        if text.strip():
            yield {"record_id": f"document/{number}", "prefix": eos, "text": text + eos}


def memorization_logs(name: str, tokens: Sequence[Tokens]) -> Logs:
    """`extraction_strength` and `exact_memorization` of open-unlearning for each row, from the ledger, in the
    precision that it has there; `name` stands before."""
    strengths = [_strength(each.top1) for each in tokens]
    exact = [float(np.float32(each.top1.sum()) / np.float32(len(each.top1))) for each in tokens]
    return {f"{name}extraction_strength": _log(strengths), f"{name}exact_memorization": _log(exact)}


def _strength(top1: NDArray[np.bool_]) -> float:
    """1 − k/n with the least k from which on all tokens are the likeliest; where none is, open-unlearning gives 1/n.

    Subtracted as it does it, to the last bit: the Kolmogorov-Smirnov test compares the numbers, of which most are ties.
    """
    tail = len(top1) if top1.all() else int(np.argmin(top1[::-1]))
    return 1 - (len(top1) - max(tail, 1)) / len(top1)


def min_k_logs(forget: Sequence[Tokens], holdout: Sequence[Tokens]) -> Logs:
    """`mia_min_k` of open-unlearning: higher scores are less likely members, the area is 1 where those to forget are likelier."""
    groups = {"forget": [_min_k(each) for each in forget], "holdout": [_min_k(each) for each in holdout]}
    ours, others = (np.array(groups[name]) for name in ("forget", "holdout"))
    wins = (others[None] > ours[:, None]).mean() + 0.5 * (others[None] == ours[:, None]).mean()
    return {
        "mia_min_k": {name: _log(values) for name, values in groups.items()}
        | {"auc": float(wins), "agg_value": float(wins)}
    }


def _min_k(tokens: Tokens) -> float:
    kept = max(1, int(len(tokens.logp) * MIN_K))
    return -float(np.sort(tokens.logp.astype(np.float64))[:kept].mean())


def _log(values: Sequence[float]) -> Mapping[str, Any]:
    return {
        "agg_value": float(np.mean(values)) if values else None,
        "value_by_index": {str(number): {"score": value} for number, value in enumerate(values)},
    }
