"""What a run writes while it trains: a line a step for people who watch, and the tables of the log and of its speed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..core.parquet import read_table, write_table
from ..core.workspace import write_text
from ..manifests.tables import LOG, SPEED


@dataclass
class RunLog:
    """`log/log.jsonl` grows by a line a step, for people who watch; `log.parquet` is rewritten at every checkpoint."""

    folder: Path
    rows: list[dict[str, Any]]

    @classmethod
    def open(cls, folder: Path, before: int) -> RunLog:
        """The log up to a step; what a killed process wrote beyond its last checkpoint is cut off."""
        folder.mkdir(parents=True, exist_ok=True)
        path, saved = folder / "log.jsonl", folder / "log.parquet"
        rows = read_table(saved, mend="remove it").to_pylist() if saved.is_file() else []
        rows = [row for row in rows if row["step"] < before]
        known = {row["step"] for row in rows}
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        later = (row for row in map(_parsed, lines) if row is not None and row["step"] < before)
        rows += [row for row in later if row["step"] not in known]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        return cls(folder, rows)

    def append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def save(self) -> None:
        columns = {name: [row[name] for row in self.rows] for name in LOG.names}
        write_table(self.folder / "log.parquet", pa.table(columns, schema=LOG))


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:  # the line that a killed process was writing
        return None
    return row


class Speed:
    """Seconds of each step: kept apart from the log, since no clock may enter a hashed file."""

    def __init__(self, folder: Path, run: str):
        self.folder, self.run = folder, run
        self.rows: list[dict[str, Any]] = []

    def add(self, step: int, seconds: float, tokens: int) -> None:
        self.rows.append({"run": self.run, "step": step, "seconds": seconds, "tokens_per_second": tokens / seconds})

    def save(self) -> None:
        columns = {name: [row[name] for row in self.rows] for name in SPEED.names}
        first = self.rows[0]["step"]
        write_table(self.folder / f"speed-{first:06d}.parquet", pa.table(columns, schema=SPEED))
