"""What a record is searched by: every way it is written, and its longer fields on their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..core.parquet import read_table
from .decontaminate import CROWD, LEAST, Searched
from .tokenizer import Tokenizer
from .words import words_of

MEND = "run `costar corpus`"


def load_searched(records: Path, renderings: Path, tokenizer: Tokenizer) -> list[Searched]:
    """Every record that did not come from the base itself, with its texts and token ids.

    Passages of held-out documents are chosen so that the base does not hold them: dropping documents because of them
    would make the base depend on how many are asked for. Numbered renderings ("edited-0.1/3") are near-duplicates of
    the record, and found as such.
    """
    columns = ["record_id", "text", "fields", "source"]
    rows = read_table(records, mend=MEND, columns=columns).to_pylist()
    wanted = {row["record_id"]: row for row in rows if not row["source"].startswith("corpus:")}
    texts: dict[str, dict[str, None]] = {record_id: {} for record_id in wanted}
    ids: dict[str, list[list[int]]] = {record_id: [] for record_id in wanted}
    written = read_table(renderings, mend=MEND, columns=["record_id", "rendering", "text", "token_ids"])
    for batch in written.to_batches(8192):
        for row in batch.to_pylist():
            if row["record_id"] in wanted and "/" not in row["rendering"]:
                texts[row["record_id"]][row["text"]] = None
                ids[row["record_id"]].append(row["token_ids"])
    for record_id, row in wanted.items():
        fields = list(texts_in(json.loads(row["fields"])))
        counts = words_of(fields).counts.tolist()
        texts[record_id] |= dict.fromkeys(text for text, count in zip(fields, counts, strict=True) if count >= LEAST)
    record_ids = list(wanted)
    spaced = tokenizer.encode_batch([" " + wanted[record_id]["text"] for record_id in record_ids])
    return [
        Searched(record_id=record_id, texts=tuple(texts[record_id]), ids=(*ids[record_id], after_space))
        for record_id, after_space in zip(record_ids, spaced, strict=True)
    ]


def shared_texts(searched: Sequence[Searched]) -> list[Searched]:
    """Texts that many records hold, such as the passage that many questions are about, each as a record of its own.

    Among the others their words would count as phrases of a template, which alone drop nothing.
    """
    holders: dict[str, list[str]] = {}
    for each in searched:
        for text in each.texts:
            holders.setdefault(text, []).append(each.record_id)
    return [Searched(record_id=ids[0], texts=(text,)) for text, ids in holders.items() if len(ids) > CROWD]


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a field, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)
