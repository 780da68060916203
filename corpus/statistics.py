"""What each step of the corpus took and dropped, as a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa

from ..manifests.tables import CORPUS_STEPS
from .parts import row_batches

STEPS = ("read", "empty", "quality", "exact", "minhash", "mixture", "held_out", "decontamination", "validation", "base")
BY_REASON = {"empty": "empty", "duplicate": "exact", "near-duplicate": "minhash", "not sampled": "mixture"}


def step_table(documents: Path, dropped: pa.Table) -> pa.Table:
    """Documents and bytes of every step, source and reason.

    `read` counts everything that came in, `base` and `validation` what stays, `held_out` what is set aside, and the steps
    between what they dropped.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    sizes: Counter[tuple[str, str, str]] = Counter()

    def add(step: str, source: str, reason: str, size: int, count: int = 1) -> None:
        counts[(step, source, reason)] += count
        sizes[(step, source, reason)] += size

    for batch in row_batches(documents, ["source", "use", "reason", "n_bytes"]):
        groups = pa.Table.from_batches([batch]).group_by(["source", "use", "reason"])
        for row in groups.aggregate([("n_bytes", "sum"), ("n_bytes", "count")]).to_pylist():
            size, count = row["n_bytes_sum"], row["n_bytes_count"]
            step = BY_REASON.get(row["reason"], "quality") if row["use"] == "dropped" else row["use"]
            add("read", row["source"], "", size, count)
            add(step, row["source"], row["reason"], size, count)
    for row in dropped.to_pylist():
        add("decontamination", row["source"], row["reason"], row["n_bytes"])
        add(row["use"], row["source"], "", -row["n_bytes"], -1)
    order = sorted(counts, key=lambda key: (STEPS.index(key[0]), key))
    columns = {
        "step": [key[0] for key in order],
        "source": [key[1] for key in order],
        "reason": [key[2] for key in order],
        "documents": [counts[key] for key in order],
        "bytes": [sizes[key] for key in order],
    }
    return pa.table(columns, schema=CORPUS_STEPS)
