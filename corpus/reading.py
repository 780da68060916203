"""What a finished corpus holds: its documents, its tokenizer, its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..core.design import CorpusDesign
from ..core.errors import CostarError
from ..core.hashing import keyed_unit, sha256_file
from ..core.workspace import HASHED_AT_ONCE, check_files, read_facts
from .parts import row_batches
from .store import TokenStore
from .tokenizer import Tokenizer

MEND = "run `costar corpus`"


def corpus_eos(design: CorpusDesign, folder: Path) -> str:
    """The token that ends documents: of the suite, or of the corpus that it takes."""
    if design.reuse is None:
        return design.eos
    return str(read_facts(folder / "source.json", ["eos"], mend=MEND)["eos"])


def open_tokenizer(design: CorpusDesign, folder: Path) -> Tokenizer:
    """The corpus' tokenizer, refused when its bytes are not those it was built with."""
    marker = check_files(folder, "tokenizer", mend=MEND)
    path = folder / "tokenizer.json"
    if sha256_file(path) != marker["files"]["tokenizer.json"]["sha256"]:
        raise CostarError(
            str(path),
            found="another tokenizer",
            expected="the one the corpus was built with",
            mend="put it back, or " + MEND,
        )
    return Tokenizer(path, corpus_eos(design, folder))


def open_store(folder: Path) -> TokenStore:
    """The finished token store of a corpus folder.

    Raises:
        CostarError: it was never finished, or a file was cut, changed in size, or belongs to another corpus.
    """
    entry = check_files(folder, "tokens", mend=MEND)["files"]["tokens.idx"]
    if entry["size"] <= HASHED_AT_ONCE and sha256_file(folder / "tokens.idx") != entry["sha256"]:
        raise CostarError(
            str(folder / "tokens.idx"), found="the index of another corpus", expected="the one built here", mend=MEND
        )
    return TokenStore.open(folder)


def texts_of(folder: Path, use: str, share: float = 1.0) -> Iterator[str]:
    """The texts of one use, in order, without holding them all; or a keyed share of them."""
    for doc_id, text in documents_of(folder, use):
        if share >= 1 or keyed_unit("tokenizer", doc_id) < share:
            yield text


def documents_of(folder: Path, use: str, chosen: frozenset[str] | None = None) -> Iterator[tuple[str, str]]:
    """(id, text) of the documents of one use (`base`, `held_out`, `validation`), or of the chosen ones among them, in order."""
    for batch in row_batches(folder / "documents.parquet", ["doc_id", "text", "use"]):
        used = batch.filter(pc.equal(batch.column("use"), use))
        for doc_id, text in zip(*(used.column(name).to_pylist() for name in ("doc_id", "text")), strict=True):
            if chosen is None or doc_id in chosen:
                yield doc_id, text


def document_ids(folder: Path, use: str) -> list[str]:
    """The ids of the documents of one use, in order."""
    path = folder / "documents.parquet"
    table = pq.read_table(path, columns=["doc_id"], filters=[("use", "=", use)], partitioning=None)
    ids: list[str] = table.column("doc_id").to_pylist()
    return ids


def sizes_of(folder: Path, use: str) -> Iterator[int]:
    """The bytes of the documents of one use, batch by batch."""
    for batch in row_batches(folder / "documents.parquet", ["n_bytes", "use"]):
        yield pc.sum(batch.filter(pc.equal(batch.column("use"), use)).column("n_bytes")).as_py() or 0
