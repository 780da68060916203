"""The last step of the corpus: the finished stream is searched for every record, and one that stands in it is refused."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from ..core import console
from ..core.design import Suite
from ..core.errors import CostarError
from ..core.hashing import sha256_json
from ..core.parquet import read_table, write_table
from ..core.workspace import check_files, finish_step, is_current, start_step
from .audit import Standing, audit, merge_standing
from .executors import Backend, drop_work, resumable_folder, run_tasks
from .occurrences import (
    Found,
    RecordIds,
    coverage_table,
    find_occurrences,
    load_record_ids,
    merge_found,
    occurrence_table,
)
from .parts import checked, code_sha256, part_path, write_array
from .windows import Windows, open_windows, stream_of
from .words import words_of

MEND = "run `costar corpus`"
CODE = ("audit", "contamination", "occurrences", "token_grams")
LEAST = 10  # ids of a record: shorter ones stand everywhere by nature, and only `coverage` tells how often
WORDS = 26  # a stretch of as many words is as much as the record: twice what a document is dropped for
FIELDS = ("record", "place", "within", "length")


class OccurrenceFinder(PipelineStep):
    """Searches a task's stretch of the stream; `run` is the number of ids in a row that are as much as a record."""

    name = "occurrences"
    type = "WRITER"

    def __init__(self, folder: str, corpus: str, records: str, renderings: str, length: int, run: int):
        super().__init__()
        self.folder, self.corpus, self.records, self.renderings = folder, corpus, records, renderings
        self.length, self.stretch = length, run

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        tokens = stream_of(open_windows(Path(self.corpus), self.length))
        records = load_record_ids(Path(self.records), Path(self.renderings))
        begin, end = (len(tokens) * (rank + k) // world_size for k in (0, 1))
        found = find_occurrences(tokens, begin, end, records)
        folder = Path(self.folder)
        rows = np.stack([getattr(found, name) for name in FIELDS])
        write_array(part_path(folder, "matches", rank, ".npy"), rows)
        write_array(part_path(folder, "seen", rank, ".npy"), np.packbits(found.seen))
        standing = audit(tokens, begin, end, records, least=LEAST, run=self.stretch)
        number = {record_id: n for n, record_id in enumerate(records.record_ids)}
        places = [(number[each.record_id], each.place, each.length) for each in standing]
        write_array(part_path(folder, "standing", rank, ".npy"), np.array(places, np.int64).reshape(-1, 3))


def build_occurrences(suite: Suite, corpus: Path, insertion: Path, backend: Backend) -> bool:
    """Make `occurrences.parquet` and `coverage.parquet`; False when they were current.

    Raises:
        CostarError: a record stands in the stream, so that no run could be said not to have read it.
    """
    design, length = suite.corpus, suite.corpus.sequence_length
    inputs = _inputs(suite, corpus, insertion)
    if is_current(corpus, inputs, "occurrences"):
        drop_work(corpus, "occurrences")
        return False
    start_step(corpus, "occurrences")
    records_path, renderings_path = insertion / "records.parquet", insertion / "renderings.parquet"
    records = load_record_ids(records_path, renderings_path)
    work = resumable_folder(corpus, "occurrences", sha256_json([inputs, design.tasks]))
    stretch = stretch_of(records, records_path)
    finder = OccurrenceFinder(str(work), str(corpus), str(records_path), str(renderings_path), length, stretch)
    size = check_files(corpus, "tokens", mend=MEND)["files"]["tokens.bin"]["size"]
    backend = backend.sized(size)
    tasks = 1 if backend.inline else design.tasks
    with console.progress("corpus") as update:
        run_tasks([finder], tasks=tasks, folder=work / "tasks", name="occurrences", backend=backend, progress=update)
    ranks = range(tasks)
    standing = merge_standing((_standing(work, rank, records) for rank in ranks), records)
    if standing:
        shutil.rmtree(work)
        raise _refusal(standing)
    found = merge_found([_found(work, rank, records) for rank in ranks])
    paths = [
        write_table(corpus / "occurrences.parquet", occurrence_table(found, records, length)),
        write_table(corpus / "coverage.parquet", coverage_table(found, records)),
    ]
    finish_step(corpus, inputs, paths, "occurrences")
    shutil.rmtree(work)
    return True


def require_search(suite: Suite, corpus: Path, insertion: Path) -> None:
    """The stream was searched for these records, and none stands in it.

    Raises:
        CostarError: it was not.
    """
    if not is_current(corpus, _inputs(suite, corpus, insertion), "occurrences"):
        raise CostarError(
            str(corpus),
            found="tokens that were not searched for these records, or hold one",
            expected="a search that found none",
            mend=MEND,
        )


def refuse_found(windows: Windows, texts: Sequence[tuple[str, Sequence[int]]]) -> None:
    """Stop where fresh texts (id, token ids), which were chosen after the corpus was made, stand whole in the stream.

    Raises:
        CostarError: some do.
    """
    if not texts:
        return
    lengths = [len(ids) for _, ids in texts]
    records = RecordIds(
        record_ids=tuple(name for name, _ in texts),
        ids=np.concatenate([np.array(ids, np.int32) for _, ids in texts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )
    tokens = stream_of(windows)
    found = audit(tokens, 0, len(tokens), records, least=LEAST, run=max(lengths) + 1)
    if found:
        raise CostarError(
            "kin fillers",
            found=f"{len(found):,} fresh records that stand in the base: {'; '.join(str(each) for each in found[:3])}",
            expected="records that are read once",
            mend="take their rows out of the file of records, or use other text for the base",
        )


def _inputs(suite: Suite, corpus: Path, insertion: Path) -> str:
    files = [
        check_files(folder, step, mend=MEND)["files"] for folder, step in ((corpus, "tokens"), (insertion, "records"))
    ]
    return sha256_json([code_sha256(CODE), *files, suite.corpus.sequence_length])


def stretch_of(records: RecordIds, path: Path) -> int:
    """The ids in a row that are as much as a record, however long it is: what `WORDS` words take in these records."""
    texts = read_table(path, mend=MEND, columns=["text"]).column("text")
    words = sum(int(words_of(part.to_pylist()).counts.sum()) for part in texts.chunks) or 1
    return max(32, -(-WORDS * len(records.ids) // words))


def _found(folder: Path, rank: int, records: RecordIds) -> Found:
    rows = np.load(checked(part_path(folder, "matches", rank, ".npy")))
    seen = np.unpackbits(np.load(checked(part_path(folder, "seen", rank, ".npy"))), count=len(records.ids))
    return Found(**dict(zip(FIELDS, rows, strict=True)), seen=seen.astype(np.bool_))


def _standing(folder: Path, rank: int, records: RecordIds) -> list[Standing]:
    rows = np.load(checked(part_path(folder, "standing", rank, ".npy"))).tolist()
    lengths = records.lengths.tolist()
    return [
        Standing(record_id=records.record_ids[n], n_tokens=lengths[n], place=place, length=length)
        for n, place, length in rows
    ]


def _refusal(standing: list[Standing]) -> CostarError:
    shown = "; ".join(str(each) for each in standing[:5])
    ids = ", ".join(f'"{each.record_id.split("/", 1)[1]}"' for each in standing[:12])
    perturbation = standing[0].record_id.split("/")[0]
    return CostarError(
        "[corpus]",
        found=f"{len(standing):,} records that stand in the base: {shown}",
        expected="records that no run reads unless it is told to",
        mend=f"take them out: [perturbation.{perturbation}] records = {{ …, without = [{ids}] }}"
        f"{', and so on' if len(standing) > 12 else ''}",
    )
