"""Documents to tokens: searched for records, encoded, each followed by EOS; one part a task, joined in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from ..core.errors import CostarError
from ..core.workspace import replacing
from ..manifests.tables import DROPPED
from .decontaminate import Hit, RecordSearch
from .parts import checked, part_path, seal, shares_of, write_array, writing_part
from .searched import load_searched, shared_texts
from .store import token_dtype, write_bin, write_idx
from .tokenizer import Tokenizer

BATCH = 4 << 20  # characters that are encoded and searched at once
USES = ("base", "validation")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The files that the task of a token step reads. `fast` says that the fast encoder was proven for this corpus."""

    documents: str
    tokenizer: str
    eos: str
    records: str
    renderings: str
    fast: bool


class UsedReader(PipelineStep):
    """A task's share of the documents for the base and for validation, by row groups."""

    name = "base documents"
    type = "READER"

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        columns = ["doc_id", "source", "text", "use"]
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            sizes = [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
            for group in shares_of(sizes, world_size)[rank]:
                for row in file.read_row_group(group, columns=columns).to_pylist():
                    if row["use"] in USES:
                        facts = {"source": row["source"], "use": row["use"]}
                        yield Document(text=row["text"], id=row["doc_id"], metadata=facts)


class TokenWriter(PipelineStep):
    """Drops documents that hold a record, encodes the others, and writes ids, sizes and what was dropped."""

    name = "tokens"
    type = "WRITER"

    def __init__(self, folder: str, inputs: Inputs):
        super().__init__()
        self.folder, self.inputs = folder, inputs

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        folder, given = Path(self.folder), self.inputs
        batches = _batches(data)
        first = next(batches, [])
        tokenizer = Tokenizer(Path(given.tokenizer), given.eos, fast=given.fast)
        searched = load_searched(Path(given.records), Path(given.renderings), tokenizer) if first else []
        searches = (RecordSearch(searched), RecordSearch(shared_texts(searched)))
        dtype = token_dtype(tokenizer.vocab_size)
        sizes: dict[str, list[NDArray[np.int64]]] = {use: [] for use in USES}
        bins = {use: part_path(folder, use, rank, ".bin") for use in USES}
        with (
            replacing(bins["base"]) as base,
            base.open("wb") as base_file,
            replacing(bins["validation"]) as other,
            other.open("wb") as other_file,
            writing_part(part_path(folder, "dropped", rank, ".parquet"), DROPPED) as dropped,
        ):
            files = {"base": base_file, "validation": other_file}
            for batch in chain([first] if first else [], batches):
                ids, lengths = tokenizer.encode_documents([document.text for document in batch])
                _refuse_eos(batch, ids, lengths, tokenizer)
                texts = [document.text for document in batch]
                hits = [hit for search in searches for hit in search.find(texts, ids, lengths)]
                for hit in _first_hits(hits):
                    document = batch[hit.document]
                    size = len(document.text.encode())
                    facts = (document.metadata["source"], document.metadata["use"], size)
                    found = (hit.record_id, hit.reason, hit.match, hit.share)
                    dropped.add(100, document.id, *facts, *found)
                held = np.zeros(len(batch), np.bool_)
                held[[hit.document for hit in hits]] = True
                for use, file in files.items():
                    chosen = ~held & np.array([document.metadata["use"] == use for document in batch])
                    file.write(with_eos(ids, lengths, chosen, tokenizer.eos_id, dtype).tobytes())
                    sizes[use].append(lengths[chosen] + 1)
        for use in USES:
            seal(bins[use])
            found_sizes = np.concatenate([np.zeros(0, np.int64), *sizes[use]]).astype(np.int32)
            write_array(part_path(folder, use, rank, ".npy"), found_sizes)


def with_eos(
    ids: NDArray[np.int32], lengths: NDArray[np.int64], chosen: NDArray[np.bool_], eos: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The chosen documents of a batch one after the other, each followed by EOS."""
    kept = ids[np.repeat(chosen, lengths)]
    sizes = lengths[chosen] + 1
    out = np.full(sizes.sum(), eos, dtype)
    body = np.ones(len(out), np.bool_)
    body[np.cumsum(sizes) - 1] = False
    out[body] = kept
    return out


def _first_hits(hits: Sequence[Hit]) -> list[Hit]:
    """One hit a document, in the order of the documents: the one that explains best why it was dropped."""
    first: dict[int, Hit] = {}
    for hit in sorted(hits, key=lambda hit: (hit.document, -hit.share, -hit.match, hit.record_id)):
        first.setdefault(hit.document, hit)
    return list(first.values())


def _refuse_eos(
    batch: Sequence[Document], ids: NDArray[np.int32], lengths: NDArray[np.int64], tokenizer: Tokenizer
) -> None:
    places = np.flatnonzero(ids == tokenizer.eos_id)
    if len(places):
        document = batch[int(np.searchsorted(np.cumsum(lengths), places[0], side="right"))]
        raise CostarError(
            f"document {document.id}",
            found=f"the end-of-document id {tokenizer.eos_id} inside the text",
            expected="that id at the ends of documents only",
            mend="mark that token as special in the tokenizer's file, so that text is not read as it",
        )


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    held = 0
    for document in documents:
        batch.append(document)
        held += len(document.text)
        if held >= BATCH:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A store that was joined from parts."""

    documents: int
    tokens: int
    sha256: str


def join_tokens(folder: Path, use: str, tasks: int, bin_path: Path, idx_path: Path, dtype: np.dtype[Any]) -> Joined:
    """Write the `.bin` and `.idx` of one use from the parts of all tasks, in bounded memory; the room is reserved first."""
    ranks = range(tasks)
    sizes = [np.load(checked(part_path(folder, use, rank, ".npy")), mmap_mode="r") for rank in ranks]
    parts = [checked(part_path(folder, use, rank, ".bin")) for rank in ranks]
    total = sum(part.stat().st_size for part in parts)
    digest = write_bin(bin_path, parts, total)
    with replacing(idx_path) as temporary:
        write_idx(temporary, sizes, dtype)
    return Joined(documents=sum(map(len, sizes)), tokens=total // dtype.itemsize, sha256=digest)


def join_dropped(folder: Path, tasks: int) -> pa.Table:
    """What all tasks dropped and why, in the order of the documents."""
    parts = [pq.read_table(checked(part_path(folder, "dropped", rank, ".parquet"))) for rank in range(tasks)]
    return pa.concat_tables(parts).cast(DROPPED)
