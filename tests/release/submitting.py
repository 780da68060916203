"""Submissions to the small suite's release, for tests to grade and to break."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

RUN = "perturbed.nano.d0"
Row = dict[str, Any]


def records_of(release: Path) -> list[Row]:
    return list(pq.read_table(release / "data" / "membership.parquet").sort_by("record_id").to_pylist())


def write_words(folder: Path, release: Path, task: str, **words: object) -> Path:
    """`submission.json`, with the keys that are given beside or instead of the usual ones; None leaves one away."""
    folder.mkdir(exist_ok=True)
    facts = json.loads((release / "release.json").read_text())
    usual = {"format": 1, "release_id": facts["release_id"], "task": task, "run": RUN, "name": "ours"}
    known = {key: value for key, value in (usual | words).items() if value is not None}
    (folder / "submission.json").write_text(json.dumps(known))
    return folder


def write_csv(path: Path, rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def losses_of(release: Path, run: str) -> dict[str, float]:
    """Record → mean log-probability of a token, as the release ships it."""
    found = {}
    for row in pq.read_table(release / "data" / "scores.parquet").to_pylist():
        if (row["run"], row["probe"], row["variant"]) == (run, "membership", "attack=loss"):
            found[row["record_id"]] = row["value"]
    return found


def write_scores(folder: Path, release: Path, of: str = RUN, **words: object) -> Path:
    """A membership submission: the loss of a run of the pair."""
    write_words(folder, release, "membership", **words)
    write_csv(folder / "scores.csv", [("record_id", "score"), *sorted(losses_of(release, of).items())])
    return folder
