"""Documents from their sources: read through a datatrove pipeline, each judged by the quality filters.

Every task reads consecutive items, so its part and those of the others, one after the other, are the documents in the
order of the source, whatever the number of tasks and workers.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from ..core.design import SourceDesign
from ..core.errors import CostarError
from ..core.plugins import load_plugin
from .duplicates import unit_digests
from .parts import part_path, shares_of, write_array, writing_part
from .quality import first_failure, load_filters

READ = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("text", pa.string()),
        ("reason", pa.string()),
        ("by_line", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file of a source; `name` enters document ids and hashes, `path` is only where it lies."""

    name: str
    path: str


@dataclass(frozen=True, kw_only=True)
class RawDocument:
    doc_id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An item of a source, with the size and time its file had when it was listed; 0 where it is no local file."""

    source: SourceDesign
    item: Item
    size: int
    time: int


def load_source(name: str) -> Any:
    return load_plugin("costar.corpus.sources", name, place="[corpus] source")


def list_items(sources: Sequence[SourceDesign], folders: Sequence[Path]) -> list[Listed]:
    """The items of all sources, in their order."""
    found = []
    for source in sources:
        for item in load_source(source.source).items(source, folders):
            size, time = file_stat(item)
            found.append(Listed(source=source, item=item, size=size, time=time))
    return found


def file_stat(item: Item) -> tuple[int, int]:
    """Size and time of an item's file; 0 where it is no local file."""
    try:
        stat = os.stat(item.path)
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


class SourceReader(PipelineStep):
    """Reads the items that a task has to read; a document knows its source, and whether a line is a unit of its own."""

    name = "source"
    type = "READER"

    def __init__(self, items: Sequence[Listed]):
        super().__init__()
        self.items = list(items)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for number in shares_of([max(each.size, 1) for each in self.items], world_size)[rank]:
            listed = self.items[number]
            module = load_source(listed.source.source)
            part = listed.source.name
            for raw in module.read(listed.item, listed.source):
                doc_id = f"{part}:{raw.doc_id}" if part else raw.doc_id
                facts = {"source": part or _group(raw.doc_id), "by_line": module.ONE_PARAGRAPH_A_LINE}
                yield Document(text=raw.text, id=doc_id, metadata=facts)
            if listed.size and file_stat(listed.item) != (listed.size, listed.time):
                raise CostarError(
                    listed.item.path,
                    found="another size or time than before it was read",
                    expected="files that stay as they are while the corpus is built",
                    mend="let nothing write to it, and run the same command again",
                )


def _group(doc_id: str) -> str:
    """What the documents of a corpus of one source are counted by: package or file, of texts by themselves the folder."""
    name = doc_id.split(":", maxsplit=1)[0]
    return os.path.dirname(name) or "." if name.endswith(".txt") else name


class ReadWriter(PipelineStep):
    """Writes a task's documents, why one is dropped, and the digests of its units for the search for repetitions."""

    name = "documents"
    type = "WRITER"

    def __init__(self, folder: str, quality: Sequence[str]):
        super().__init__()
        self.folder, self.quality = folder, tuple(quality)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        filters = load_filters(self.quality)
        folder, digests = Path(self.folder), array("Q")
        with writing_part(part_path(folder, "read", rank, ".parquet"), READ) as part:
            for document in data:
                text, by_line = document.text, document.metadata["by_line"]
                reason = first_failure(filters, text) if text.strip() else "empty"
                part.add(len(text), document.id, document.metadata["source"], text, reason, by_line)
                if not reason:
                    digests.frombytes(unit_digests(units_of(text, by_line=by_line)).tobytes())
        write_array(part_path(folder, "digests", rank, ".npy"), np.array(digests, np.uint64))


def units_of(text: str, *, by_line: bool) -> list[str]:
    """What counts as repeated when it stood earlier: the lines of a text, or the text."""
    return text.split("\n") if by_line else [text]
