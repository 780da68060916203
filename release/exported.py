"""Proof of an exported arm: its stream is the base with the copies of the arm, token by token; what differs is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.console import Update
from ..core.design import Suite
from ..core.workspace import Workspace, read_facts, read_marker
from ..corpus.windows import TableWindows
from ..insertion.materialize import read_edited
from ..insertion.overlay import Overlay, open_suite_overlay, read_exposures
from ..insertion.pieced import edit_list
from .forms.megatron import FOLDER

CHUNK = 1 << 24
SHOWN = 5
MEND = "export the arm again"


def verify_exports(suite: Suite, workspace: Workspace, progress: Update) -> tuple[int, list[str]]:
    """Compare every finished export of a suite with its arm: how many there are, and what is wrong with them."""
    folders = sorted(path for path in (workspace.release / FOLDER).glob("*-d*") if read_marker(path) is not None)
    problems: list[str] = []
    for number, folder in enumerate(folders):
        facts = read_facts(folder / "export.json", ["arm", "draw", "overlay_sha256"], mend=MEND)
        arm, draw = facts["arm"], facts["draw"]
        if arm not in suite.arms or draw >= suite.arms[arm].draws:
            problems.append(f"{folder}: the suite has no draw {draw} of arm {arm}")
            continue
        overlay = open_suite_overlay(workspace, arm, draw, seed=suite.seed)
        if overlay.edits.sha256() != facts["overlay_sha256"]:
            problems.append(f"{folder}: of other exposures than the suite has now; {MEND}")
            continue
        progress(number / len(folders), folder.name)
        places = _differing(overlay, folder / "tokens.bin")
        problems += [f"{folder}: {text}" for text in _named(workspace, overlay, arm, draw, places)]
    return len(folders), problems


def _differing(overlay: Overlay, path: Path) -> NDArray[np.int64]:
    """The tokens of an exported stream that are not those of the arm; −1 where the stream is cut or too long."""
    base = overlay.store.tokens
    edits = edit_list(overlay)
    if path.stat().st_size != base.nbytes:
        return np.array([-1])
    stream: NDArray[Any] = np.memmap(path, base.dtype, mode="r")
    found = [np.zeros(0, np.int64)]
    for begin in range(0, len(base), CHUNK):
        expected = read_edited(base, edits, begin, min(begin + CHUNK, len(base)))
        found.append(begin + np.flatnonzero(stream[begin : begin + len(expected)] != expected))
    return np.concatenate(found)


def _named(workspace: Workspace, overlay: Overlay, arm: str, draw: int, places: NDArray[np.int64]) -> list[str]:
    """Each differing stretch by the copy it belongs to, or as a sequence that should be untouched."""
    if not len(places):
        return []
    if places[0] < 0:
        return ["tokens.bin has another size than the base"]
    if isinstance(overlay.windows, TableWindows):
        where = ", ".join(f"{place:,}" for place in places[:SHOWN].tolist())
        return [f"{len(places):,} tokens are not those of the arm, the first at {where} of tokens.bin"]
    length, edits = overlay.length, overlay.edits
    exposures = read_exposures(workspace, arm, draw)
    names = list(zip(exposures.column("record_id").to_pylist(), exposures.column("copy").to_pylist(), strict=True))
    sequences = np.unique(np.minimum(places // length, overlay.order.size - 1))
    texts = []
    for sequence in sequences[:SHOWN].tolist():
        slot = int(overlay.order.slots(np.array([sequence]), 0)[0])
        at = int(np.searchsorted(edits.slots, slot))
        inside = places[(places >= sequence * length) & (places <= (sequence + 1) * length)] - sequence * length
        where = f"slot {slot}, sequence {sequence}, tokens {inside.min()} to {inside.max()}"
        if at < len(edits.slots) and edits.slots[at] == slot:
            begin, size = int(edits.begins[at]), int(edits.offsets[at + 1] - edits.offsets[at])
            if inside.max() >= begin and inside.min() < begin + size:
                texts.append(f"{names[at][0]} copy {names[at][1]} is damaged ({where})")
                continue
        texts.append(f"other tokens than the base ({where})")
    if len(sequences) > SHOWN:
        texts.append(f"and {len(sequences) - SHOWN:,} more sequences")
    return texts
