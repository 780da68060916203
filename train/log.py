"""What a run writes down while it trains: a row a step of the log and of its speed, readable while it runs.

`<name>.jsonl` grows by a line a row, for people and for `costar status`; `<name>.parquet`, which the manifest reads, is
rewritten at every checkpoint. Clocks are kept in `speed/`, since none may enter a hashed file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from ..core.devices import mfu
from ..core.errors import CostarError
from ..core.parquet import read_table, write_rows
from ..core.workspace import Workspace, write_text
from ..manifests.tables import LOG, SPEED
from .config import RunConfig

TAIL = 8192  # bytes at the end of a file of lines: the last twenty rows and more


@dataclass
class RowLog:
    """Rows of a schema with a `step`, in the order of steps, kept in two files of a folder."""

    folder: Path
    name: str
    schema: pa.Schema
    rows: list[dict[str, Any]]

    @classmethod
    def restore(cls, folder: Path, name: str, schema: pa.Schema, before: int) -> Self:
        """The rows of steps below `before`; what a killed process wrote beyond its last checkpoint is cut off."""
        folder.mkdir(parents=True, exist_ok=True)
        path, saved = folder / f"{name}.jsonl", folder / f"{name}.parquet"
        table = read_if_whole(saved, schema) if saved.is_file() else None
        found = {row["step"]: row for row in (table.to_pylist() if table else [])}
        for row in read_lines(path):
            found.setdefault(row["step"], row)
        kept = [found[step] for step in sorted(found) if step < before]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        return cls(folder, name, schema, kept)

    def append(self, row: dict[str, Any]) -> None:
        """The next row: at once in the file of lines."""
        self.rows.append(row)
        with (self.folder / f"{self.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def save(self) -> None:
        """Write the Parquet file; call it before the checkpoint whose steps the rows lead up to."""
        write_rows(self.folder / f"{self.name}.parquet", self.schema, self.rows)


class RunLog(RowLog):
    """The log of a run: what `Trainer.train_step` returns, a row a step. Rows may come late, but in order."""

    @classmethod
    def open(cls, folder: Path, before: int) -> RunLog:
        """The log of a run that goes on with step `before`."""
        return cls.restore(folder, "log", LOG, before)


@dataclass(frozen=True)
class SpeedLog:
    """Seconds, tokens/s and MFU of each step. A killed process loses nothing that was appended."""

    log: RowLog
    run: str
    device: str
    devices: int
    tokens: int
    flops_per_token: int

    @classmethod
    def open(cls, folder: Path, config: RunConfig, before: int, *, device: str, devices: int) -> SpeedLog:
        """The speed of a run that goes on with step `before` on `devices` devices of one name, as torch gives it."""
        tokens = config.train.batch * config.sequence_length
        flops = config.shape.flops_per_token(config.sequence_length)
        return cls(RowLog.restore(folder, "speed", SPEED, before), config.run, device, devices, tokens, flops)

    def add(self, step: int, seconds: float) -> None:
        """A step of the whole run took so long."""
        rate = self.tokens / max(seconds, 1e-9)
        used = mfu(self.device, self.devices, self.flops_per_token, rate)
        row = {"run": self.run, "step": step, "seconds": seconds, "tokens_per_second": rate, "mfu": used}
        self.log.append(row)

    def save(self) -> None:
        self.log.save()


def read_if_whole(path: Path, schema: pa.Schema) -> pa.Table | None:
    """A Parquet file with columns of `schema` (it may lack some that came later), or None where it is damaged."""
    try:
        table = read_table(path, mend="")
    except CostarError:
        return None
    return table if "step" in table.column_names and set(table.column_names) <= set(schema.names) else None


def log_is_whole(workspace: Workspace, config: RunConfig) -> bool:
    """Whether `log/log.parquet` of a finished run can be read and has a row for every step of its own."""
    own = range(_first(config), config.train.steps)
    path = workspace.run(config.run) / "log" / "log.parquet"
    table = read_if_whole(path, LOG) if path.is_file() else None
    return not own or (table is not None and set(own) <= set(table.column("step").to_pylist()))


def require_log(workspace: Workspace, config: RunConfig, upto: int) -> None:
    """A run that goes on from its checkpoint at step `upto` must know what it did before.

    Raises:
        CostarError: neither file of its log has the row of a step of its own below that.
    """
    folder = workspace.run(config.run) / "log"
    wanted = set(range(_first(config), upto)) - {row["step"] for row in read_lines(folder / "log.jsonl")}
    path = folder / "log.parquet"
    if wanted and path.is_file() and (table := read_if_whole(path, LOG)):
        wanted -= set(table.column("step").to_pylist())
    if wanted:
        steps = (
            f"step {min(wanted)}" if len(wanted) == 1 else f"{len(wanted)} steps from {min(wanted)} to {max(wanted)}"
        )
        raise CostarError(
            str(path),
            found=f"no row for {steps}, nor in log.jsonl beside it: lost or damaged",
            expected=f"every step of the run before its checkpoint at step {upto}",
            mend="put the file back, or remove the run's checkpoints after that step, which trains it again from there: "
            f"{workspace.run(config.run) / 'checkpoints'}",
        )


def _first(config: RunConfig) -> int:
    """The first step that a run trains itself."""
    return config.branch_step if config.parent_run else 0


def log_path(workspace: Workspace, run: str) -> Path:
    """The file of lines of a run's log."""
    return workspace.run(run) / "log" / "log.jsonl"


def speed_path(workspace: Workspace, run: str) -> Path:
    """The file of lines of a run's speed."""
    return workspace.run(run) / "speed" / "speed.jsonl"


def read_log_rows(workspace: Workspace, run: str) -> list[dict[str, Any]]:
    """The rows of a run's own log so far."""
    return read_lines(log_path(workspace, run))


def last_log_row(workspace: Workspace, run: str) -> dict[str, Any] | None:
    """The last whole row of a run's own log, read from the end of its file."""
    rows = tail_rows(log_path(workspace, run))
    return rows[-1] if rows else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of lines; what a killed process was writing, or one that writes now, is left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return _rows(text.split("\n"))


def tail_rows(path: Path) -> list[dict[str, Any]]:
    """The last whole rows of a file of lines, read from its end; none where there is no file."""
    try:
        with path.open("rb") as file:
            begin = max(0, os.fstat(file.fileno()).st_size - TAIL)
            file.seek(begin)
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    return _rows(lines[1:-1] if begin else lines[:-1])


def _rows(lines: list[str]) -> list[dict[str, Any]]:
    rows = (_parsed(line) for line in lines if line)
    return [row for row in rows if row is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
