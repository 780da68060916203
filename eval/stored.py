"""Reading what was measured, and finding what was damaged since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ..core.design import Suite
from ..core.errors import CostarError, shorten
from ..core.parquet import read_table
from ..core.workspace import Workspace, changed_files, read_marker
from ..manifests.catalogue import score_files
from ..manifests.lineage import read_configs, stretches
from ..manifests.tables import LEDGER
from ..train.config import read_config


def damaged_files(workspace: Workspace) -> list[str]:
    """Ledgers and scores whose bytes are not those that were written."""
    problems = [
        f"{workspace.eval / name}: its bytes are not those computed"
        for step in ("effects", "membership")
        for name in changed_files(workspace.eval, step)
    ]
    own = ("ledger/run=*/step=*", "generated/run=*/step=*", "scores/run=*")
    for what in (*own, "external/*", "external/*/ledger", "external/*/generated", "external/*/scores"):
        for folder in sorted(workspace.eval.glob(what)):
            for marker in sorted(folder.glob("stage-*.json")):
                step = marker.stem.removeprefix("stage-")
                found = changed_files(folder, step)
                problems += [f"{folder / name}: its bytes are not those that were written" for name in found]
    return problems


def told_gaps(suite: Suite, workspace: Workspace) -> str:
    """One line on what could not be measured, with its most frequent reason; nothing where all could."""
    paths = [path for run in read_configs(workspace) for path in score_files(workspace, run, "gaps")]
    reasons: Counter[str] = Counter()
    for path in paths:
        reasons.update(
            read_table(path, mend="run `costar eval` again", columns=["reason"]).column("reason").to_pylist()
        )
    if not reasons:
        return ""
    (reason, count), total = reasons.most_common(1)[0], reasons.total()
    asked = "" if suite.name == "demo" else f" SUITE={suite.argument}"
    often = "" if count == total else "most often, "
    return f"{total:,} gap{'s' if total > 1 else ''}: {often}{shorten(reason, 90)}; all: make sql Q=gaps{asked}"


def read_ledger(workspace: Workspace, run: str, step: int | None) -> pa.Table:
    """The ledger of a run's checkpoint (default: the last measured one), also where an ancestor wrote it.

    Raises:
        CostarError: that checkpoint was not measured.
    """
    read_config(workspace, run)
    measured = {
        int(path.name.removeprefix("step=")): path
        for stretch in reversed(stretches(read_configs(workspace), run))
        for path in (workspace.eval / "ledger" / f"run={stretch.owner}").glob("step=*")
        if stretch.after < int(path.name.removeprefix("step=")) <= stretch.upto
        and read_marker(workspace.scores(stretch.owner), path.name.removeprefix("step=")) is not None
    }
    wanted = max(measured, default=None) if step is None else step
    if wanted not in measured:
        raise CostarError(
            f"ledger of {run}",
            found=f"no measurement at step {wanted}" if wanted is not None else "no measurement",
            expected=f"one of the steps {', '.join(map(str, sorted(measured))) or '(none yet)'}",
            mend="run `costar eval` first",
        )
    return ledger_in(measured[wanted])


def ledger_in(folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The ledger of one checkpoint, its blocks one after the other."""
    mend = "run `costar eval` again"
    parts = [read_table(path, mend=mend, columns=columns) for path in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables(parts) if parts else LEDGER.empty_table().select(list(columns or LEDGER.names))
