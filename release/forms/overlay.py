"""One arm and draw as base tokens and edits, for any trainer: no other program is needed to read it.

`release/overlay/<arm>-d<draw>/` holds the base (a hard link where the file system allows it), the sequence of every slot
as `order.npy`, the copies as `edits.parquet`, and `read_overlay.py`, which joins them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...core.design import Suite
from ...core.errors import CostarError
from ...core.hashing import EMPTY_DIGEST, row_hashes, step_digest
from ...core.parquet import write_table
from ...core.workspace import Workspace, check_files, corpus_facts, replacing, write_json, write_text
from ...corpus.windows import TableWindows
from ...insertion.build import require_insertion
from ...insertion.overlay import Overlay, open_suite_overlay, read_exposures
from ...manifests.tables import BIG, INT, STRING
from ..chosen import Chosen
from ..folders import built_from, write_folder
from ..pages import rendered

OPTIONS = ()
FOLDER = "overlay"
READER = "overlay_reader.py"
DIGESTS = 8  # steps whose digests are given
AT_ONCE = 1 << 22
EDITS = pa.schema(
    [
        ("slot", BIG),
        ("sequence", BIG),
        ("begin", INT),
        ("token_ids", pa.list_(INT)),
        ("record_id", STRING),
        ("copy", INT),
    ]
)


def write(suite: Suite, workspace: Workspace, chosen: Chosen) -> list[Path]:
    """Write the overlay of an arm and draw.

    Raises:
        CostarError: the suite is not built that far, its corpus is read by order tables, or another process writes it.
    """
    require_insertion(suite, workspace)
    overlay = open_suite_overlay(workspace, chosen.arm, chosen.draw, seed=suite.seed)
    if isinstance(overlay.windows, TableWindows):
        raise CostarError(
            "--export overlay",
            found="a corpus that is read by order tables",
            expected="a corpus whose sequences follow each other",
            mend="--export megatron, which keeps the tables",
        )
    train = suite.arms[chosen.arm].train
    base = check_files(workspace.corpus, "tokens", mend="run `costar corpus` again")["files"]
    inputs = [chosen.arm, chosen.draw, suite.seed, train.batch, train.steps, base, built_from(workspace)]

    def fill(folder: Path) -> None:
        _fill(suite, workspace, chosen, overlay, folder)

    return [write_folder(workspace, FOLDER, f"{chosen.arm}-d{chosen.draw}", inputs, fill)]


def _fill(suite: Suite, workspace: Workspace, chosen: Chosen, overlay: Overlay, folder: Path) -> None:
    train, facts = suite.arms[chosen.arm].train, corpus_facts(workspace)
    for name in ("tokens.bin", "tokens.idx"):
        _link(workspace.corpus / name, folder / name)
    _write_order(overlay, train.slots, folder / "order.npy")
    edits = edit_rows(overlay, read_exposures(workspace, chosen.arm, chosen.draw))
    write_table(folder / "edits.parquet", edits)
    about: dict[str, Any] = {
        "suite": suite.name,
        "arm": chosen.arm,
        "draw": chosen.draw,
        "batch": train.batch,
        "steps": train.steps,
        "slots": train.slots,
        "dtype": np.dtype(overlay.store.tokens.dtype).newbyteorder("<").str,
        "tokens": len(overlay.store.tokens),
        "overlay_sha256": overlay.edits.sha256(),
        "digests": first_digests(overlay, train.batch, min(DIGESTS, train.steps)),
        **{
            name: facts[name]
            for name in ("sequence_length", "vocab_size", "eos_id", "tokens_sha256", "tokenizer_sha256")
        },
    }
    write_json(folder / "overlay.json", about)
    shutil.copyfile(Path(__file__).parents[1] / READER, folder / "read_overlay.py")
    page = rendered("overlay.md.j2", **about, length=overlay.length, edits=len(edits))
    write_text(folder / "README.md", page)


def edit_rows(overlay: Overlay, exposures: pa.Table) -> pa.Table:
    """The copies of an arm by slot, as ids to write into the row that is read there."""
    edits, exposures = overlay.edits, exposures.sort_by("slot")
    assert np.array_equal(exposures.column("slot").to_numpy(), edits.slots)
    columns = {
        "slot": edits.slots,
        "sequence": overlay.order.sequences(edits.slots),
        "begin": edits.begins,
        "token_ids": pa.ListArray.from_arrays(pa.array(edits.offsets, INT), pa.array(edits.payload, INT)),
        "record_id": exposures.column("record_id"),
        "copy": exposures.column("copy"),
    }
    return pa.table({name: columns[name] for name in EDITS.names}).cast(EDITS)


def first_digests(overlay: Overlay, batch: int, steps: int) -> list[str]:
    """The rolling digests of the first steps, as the log of a run has them."""
    digest, found = EMPTY_DIGEST, []
    for step in range(steps):
        digest = step_digest(digest, row_hashes(overlay.sequences(np.arange(step * batch, (step + 1) * batch))))
        found.append(digest.hex())
    return found


def _write_order(overlay: Overlay, slots: int, path: Path) -> None:
    """The sequence of every slot [slots], written in blocks."""
    dtype = "<u4" if overlay.order.size < 1 << 32 else "<u8"
    with replacing(path) as temporary:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(dtype), shape=(slots,))
        for first in range(0, slots, AT_ONCE):
            part = np.arange(first, min(first + AT_ONCE, slots))
            out[first : first + len(part)] = overlay.order.sequences(part)
        out.flush()
        del out


def _link(source: Path, target: Path) -> None:
    """The same file under another name; its bytes where that cannot be, or where the file is not ours to sync."""
    given = source.resolve()  # a corpus may itself be a link to the store of another tool
    with replacing(target) as temporary:
        if os.access(given, os.W_OK):
            with contextlib.suppress(OSError):
                os.link(given, temporary)
        if not temporary.exists():
            shutil.copyfile(given, temporary)
