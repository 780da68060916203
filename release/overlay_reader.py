"""Reads this folder: base tokens and edits, joined in the order of training. Needs numpy and pyarrow, nothing of costar.

`rows()` yields ids [L + 1] slot by slot; every `batch` of them are a step, inputs [:-1] and labels [1:].
`python read_overlay.py` reads the first steps and compares their digests with those in overlay.json.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

FOLDER = Path(__file__).resolve().parent


def facts() -> dict[str, Any]:
    """What the rows are of: batch, steps, slots, sequence_length, dtype and more."""
    found: dict[str, Any] = json.loads((FOLDER / "overlay.json").read_text(encoding="utf-8"))
    return found


def rows(first: int = 0, last: int | None = None) -> Iterator[Any]:
    """The rows of the slots [first, last), by default of the whole run."""
    about = facts()
    length, stop = about["sequence_length"], about["slots"] if last is None else last
    base = np.memmap(FOLDER / "tokens.bin", dtype=about["dtype"], mode="r")
    order = np.load(FOLDER / "order.npy", mmap_mode="r")
    edits = pq.read_table(FOLDER / "edits.parquet", filters=[("slot", ">=", first), ("slot", "<", stop)])
    slots, begins, texts = (edits[name].to_pylist() for name in ("slot", "begin", "token_ids"))
    written = {slot: (begin, ids) for slot, begin, ids in zip(slots, begins, texts)}
    for slot in range(first, stop):
        start = int(order[slot]) * length
        row = np.array(base[start : start + length + 1])
        begin, ids = written.get(slot, (0, []))
        row[begin : begin + len(ids)] = ids
        yield row


def digests(steps: int) -> Iterator[str]:
    """The rolling digest after each of the first steps: blake2b of the one before and of the hashes of the step's rows."""
    digest, batch = bytes(16), facts()["batch"]
    for step in range(steps):
        ids = [row.astype("<u4").tobytes() for row in rows(step * batch, (step + 1) * batch)]
        hashes = b"".join(hashlib.blake2b(each, digest_size=16).digest() for each in ids)
        digest = hashlib.blake2b(digest + hashes, digest_size=16).digest()
        yield digest.hex()


if __name__ == "__main__":
    wanted = facts()["digests"]
    same = list(digests(len(wanted))) == wanted
    sys.stdout.write(f"{len(wanted)} steps read {'as' if same else 'NOT as'} training read them\n")
    sys.exit(not same)
