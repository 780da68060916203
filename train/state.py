"""What of a suite is current, stale or under way: what `status` shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.design import Suite
from ..core.workspace import Workspace, read_marker
from ..insertion.build import insertion_is_current
from ..insertion.records import records_are_current
from .config import begun_runs
from .progress import status_text
from .stale import stale_runs
from .validation import last_validation


def stale_keys(suite: Suite, workspace: Workspace) -> dict[str, tuple[str, ...]]:
    """The changed keys of every run that an edit of the suite touches."""
    return {each.run: each.keys for each in stale_runs(suite, workspace)}


def under_way(workspace: Workspace) -> dict[str, str]:
    """How far runs are, from the ends of their logs: loss, speed, time left, and the last loss on validation documents."""
    texts = {}
    for run, config in begun_runs(workspace).items():
        held = last_validation(workspace, run)
        parts = [
            status_text(workspace, config),
            f"validation loss {held['loss']:.2f} at {held['step']}" if held else "",
        ]
        texts[run] = "".join(f" · {part}" for part in parts if part)
    return texts


def current_stages(suite: Suite, workspace: Workspace, folders: Sequence[Path]) -> dict[str, bool]:
    """Whether corpus and insertion were built from the suite as it is."""
    steps = {"corpus": (workspace.corpus, "occurrences"), "insertion": (workspace.insertion, "insert")}
    built = {what: read_marker(*step) is not None for what, step in steps.items()}
    records = built["corpus"] and records_are_current(suite, workspace.corpus, workspace.insertion, folders)
    return {"corpus": records, "insertion": built["insertion"] and insertion_is_current(suite, workspace)}
