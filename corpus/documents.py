"""Documents: read from a source through a datatrove pipeline, de-duplicated by paragraph, some held out.

The number of tasks is fixed and their results are put back into the order of the source, so the outcome does not
depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from ..core.design import CorpusDesign, SourceDesign
from ..core.errors import CostarError
from ..core.hashing import keyed_hash, keyed_unit
from ..core.parquet import write_table
from ..core.plugins import load_plugin
from ..core.pool import children_end_with_parent
from ..manifests.tables import DOCUMENTS

TASKS = 16


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file of a source; `name` enters document ids and hashes, `path` is only where it lies."""

    name: str
    path: str


@dataclass(frozen=True, kw_only=True)
class RawDocument:
    doc_id: str
    text: str


class QuietExecutor(LocalPipelineExecutor):
    """datatrove's local executor without its log lines: what people read goes through `console`."""

    def run(self) -> Any:
        children_end_with_parent()
        logger.disable("datatrove")
        return super().run()

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        logger.disable("datatrove")
        return super()._run_for_rank(rank, local_rank, node_rank)


class SourceReader(PipelineStep):
    """Reads every TASKS-th item of a source; a document knows the place of its item."""

    name = "source"
    type = "READER"

    def __init__(self, items: Sequence[Item], source: SourceDesign):
        super().__init__()
        self.items = items
        self.source = source

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        source = load_source(self.source.source)
        for place in range(rank, len(self.items), world_size):
            for raw in source.read(self.items[place], self.source):
                yield Document(text=raw.text, id=raw.doc_id, metadata={"place": place})


class PartWriter(PipelineStep):
    """Writes a task's documents as one Parquet part."""

    name = "part"
    type = "WRITER"

    def __init__(self, folder: str):
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        documents = list(data)
        table = pa.table(
            {
                "place": pa.array([d.metadata["place"] for d in documents], pa.int64()),
                "doc_id": pa.array([d.id for d in documents], pa.string()),
                "text": pa.array([d.text for d in documents], pa.large_string()),
            }
        )
        pq.write_table(table, Path(self.folder) / f"part-{rank:03d}.parquet")


def load_source(name: str) -> Any:
    return load_plugin("costar.corpus.sources", name, place="[corpus] source")


def read_source(design: CorpusDesign, items: Sequence[Item], work: Path, workers: int) -> list[RawDocument]:
    """All documents of a source, in its order. `work` is an empty folder for parts."""
    tasks = max(1, min(TASKS, len(items)))
    pipeline = [SourceReader(items, design.sources[0]), PartWriter(str(work))]
    QuietExecutor(pipeline, tasks=tasks, workers=min(workers, tasks), logging_dir=str(work / "log")).run()
    rows: list[tuple[int, str, str]] = []
    for rank in range(tasks):
        part = pq.read_table(work / f"part-{rank:03d}.parquet", partitioning=None)
        rows += zip(*(part.column(name).to_pylist() for name in ("place", "doc_id", "text")), strict=True)
    rows.sort(key=lambda row: row[0])  # stable: documents of one item keep their order
    return [RawDocument(doc_id=doc_id, text=text) for _, doc_id, text in rows]


def deduplicated(documents: Sequence[RawDocument], *, by_line: bool) -> Iterator[tuple[RawDocument, str]]:
    """Each document, and why it is dropped if it is: it is empty, or its text stood in an earlier one.

    With `by_line` (sources that give one paragraph a line) a document loses the lines that stood earlier.
    """
    seen: set[int] = set()
    for document in documents:
        units = document.text.split("\n") if by_line else [document.text]
        fresh = []
        for unit in units:
            key = keyed_hash("paragraph", unit.strip())
            if key not in seen:
                seen.add(key)
                fresh.append(unit)
        text = "\n".join(fresh) if "".join(fresh).strip() else ""
        reason = "" if text else ("empty" if not document.text.strip() else "duplicate")
        yield RawDocument(doc_id=document.doc_id, text=text), reason


def held_out(seed: int, doc_id: str, share: float) -> bool:
    """Whether a document is kept out of the base: a keyed hash and a fixed share, so other records change nothing."""
    return keyed_unit(seed, "held-out", doc_id) < share


def write_documents(
    path: Path, design: CorpusDesign, seed: int, items: Sequence[Item], work: Path, workers: int
) -> Path:
    """Build `documents.parquet`: one row a document, its use `base`, `held_out` or `dropped`."""
    rows: dict[str, list[Any]] = {name: [] for name in DOCUMENTS.names}
    ids: set[str] = set()
    by_line = load_source(design.sources[0].source).ONE_PARAGRAPH_A_LINE
    for document, reason in deduplicated(read_source(design, items, work, workers), by_line=by_line):
        if document.doc_id in ids:
            raise CostarError(
                document.doc_id, found="a second document of this id", expected="ids that differ", mend="rename it"
            )
        ids.add(document.doc_id)
        use = "dropped" if reason else "held_out" if held_out(seed, document.doc_id, float(design.held_out)) else "base"
        values = (
            document.doc_id,
            document.doc_id.split(":")[0],
            document.text,
            len(document.text.encode()),
            use,
            reason,
        )
        for name, value in zip(DOCUMENTS.names, values, strict=True):
            rows[name].append(value)
    if rows["use"].count("base") < 2:
        raise CostarError(
            f"[corpus] source {design.source!r}",
            found=f"{rows['use'].count('base')} documents for the base",
            expected="at least 2",
            mend="give more text",
        )
    return write_table(path, pa.table(rows, schema=DOCUMENTS))
