"""The steps of `costar corpus`: documents, tokenizer, token store. Records come between the last two, from `insertion`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from ..core import console
from ..core.design import CorpusDesign, Suite, plain
from ..core.errors import CostarError, StaleRuns
from ..core.hashing import sha256_file, sha256_json
from ..core.parquet import read_table, write_table
from ..core.workspace import (
    check_files,
    finish_step,
    is_current,
    read_marker,
    replacing,
    start_step,
    work_folder,
    write_json,
)
from ..manifests.tables import DOCUMENTS
from .decontaminate import WordGrams
from .documents import TASKS, QuietExecutor, load_source, write_documents
from .store import TokenStore, token_dtype, write_bin, write_idx
from .stored import find_store, place_store
from .tokenizer import Tokenizer, train_bpe

MEND = "run `costar corpus`"
MOST_DROPPED = 0.2  # share of the base documents that records may take out


def _refuse_other(made: Path, path: Path, what: str, protected: Sequence[str]) -> None:
    """Stop before a file that trained runs depend on is replaced by another one."""
    marker = read_marker(path.parent, what)
    if protected and marker and sha256_file(made) != marker["files"][path.name]["sha256"]:
        raise StaleRuns(
            what, found=f"other {what} than before (another installation, or changed files)", runs=protected
        )


def build_documents(
    suite: Suite, folder: Path, folders: Sequence[Path], workers: int, protected: Sequence[str] = ()
) -> bool:
    """Make `documents.parquet`; False when it was current. `folders` are where relative paths start.

    `protected` names trained runs: when the documents would change, nothing is replaced and the runs are named.
    """
    design = suite.corpus
    source = load_source(design.sources[0].source)
    items = source.items(design.sources[0], folders)
    facts = source.facts(design.sources[0])
    stats = [(item.name, os.stat(item.path).st_size, os.stat(item.path).st_mtime_ns) for item in items]
    listing = stats if design.source == "files" else [(name, size) for name, size, _ in stats]
    inputs = sha256_json([suite.seed, design.source, design.sources[0].text, str(design.held_out), facts, listing])
    if is_current(folder, inputs, "documents"):
        return False
    console.say(f"corpus     reading {len(items):,} files of {design.source}")
    path, facts_path = folder / "documents.parquet", folder / "source.json"
    with work_folder(folder) as work:
        (work / "parts").mkdir()
        if is_stored(design):
            made = write_table(work / "new.parquet", DOCUMENTS.empty_table())
        else:
            made = write_documents(work / "new.parquet", design, suite.seed, items, work / "parts", workers)
        _refuse_other(made, path, "documents", protected)
        start_step(folder, "documents")
        os.replace(made, path)
    write_json(facts_path, facts)
    finish_step(folder, inputs, [path, facts_path], "documents")
    return True


def is_stored(design: CorpusDesign) -> bool:
    """Whether the source is a token store that another tool built."""
    return bool(getattr(load_source(design.sources[0].source), "STORED", False))


def _store_files(design: CorpusDesign, folders: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of the files of a given store; none where the store is built here."""
    if not is_stored(design):
        return []
    stats = [(item.name, os.stat(item.path)) for item in find_store(design, folders).items]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def check_source(suite: Suite) -> None:
    """The source exists, and the suite asks nothing of it that it cannot give."""
    wanting = [p.name for p in suite.perturbations.values() if p.origin == "corpus"]
    wanting += [f"filler of {arm.name}" for arm in suite.arms.values() if arm.filler == "base"]
    if is_stored(suite.corpus) and (wanting or suite.corpus.tokenizer_file is None):
        raise CostarError(
            f"[corpus] source {suite.corpus.source!r}",
            found=f"held-out text for {', '.join(wanting)}" if wanting else "no tokenizer file",
            expected="records from elsewhere, and the tokenizer that the store was made with",
            mend="take records from files, the Hub or a generator, and give tokenizer = { file = … }",
        )


def _texts(folder: Path, use: str) -> Iterator[str]:
    """The texts of one use, in order, without holding them all."""
    with pq.ParquetFile(folder / "documents.parquet") as file:
        for batch in file.iter_batches(2048, columns=["text", "use"]):
            yield from batch.filter(pc.equal(batch.column("use"), use)).column("text").to_pylist()


def build_tokenizer(design: CorpusDesign, folder: Path, folders: Sequence[Path], protected: Sequence[str] = ()) -> bool:
    """Make `tokenizer.json`, trained on the base documents or copied; False when it was current."""
    documents = check_files(folder, "documents", mend=MEND)["files"]["documents.parquet"]["sha256"]
    given: Path | None = None
    if design.tokenizer_file:
        given = next((f / design.tokenizer_file for f in folders if (f / design.tokenizer_file).is_file()), None)
        if given is None:
            raise CostarError(
                f"[corpus] tokenizer file {design.tokenizer_file!r}",
                found="no such file",
                expected=f"a file below {' or '.join(map(str, folders))}",
                mend="correct the path, or set `data` in machine.toml",
            )
    path = folder / "tokenizer.json"
    inputs = sha256_json([sha256_file(given) if given else documents, design.vocabulary, design.eos])
    if is_current(folder, inputs, "tokenizer"):
        return False
    with replacing(path) as temporary:
        if given:
            shutil.copyfile(given, temporary)
        else:
            assert design.vocabulary is not None
            train_bpe(_texts(folder, "base"), design.vocabulary, design.eos, temporary)
        Tokenizer(temporary, design.eos)
        _refuse_other(temporary, path, "tokenizer", protected)
        start_step(folder, "tokenizer")
    finish_step(folder, inputs, [path], "tokenizer")
    return True


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
    return Tokenizer(path, design.eos)


class BaseReader(PipelineStep):
    """Reads one of TASKS consecutive shares of the base documents."""

    name = "base documents"
    type = "READER"

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        table = pq.read_table(self.path, columns=["doc_id", "text"], filters=[("use", "=", "base")], partitioning=None)
        first, last = (len(table) * (rank + k) // world_size for k in (0, 1))
        for batch in table.slice(first, last - first).to_batches(1024):
            for doc_id, text in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
                yield Document(text=text, id=doc_id)


class TokenWriter(PipelineStep):
    """Drops documents that share an n-gram with a record, encodes the others and writes ids, sizes and what was dropped."""

    name = "tokens"
    type = "WRITER"

    def __init__(self, folder: str, tokenizer: str, eos: str, records: Sequence[str]):
        super().__init__()
        self.folder, self.tokenizer, self.eos, self.records = folder, tokenizer, eos, list(records)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        tokenizer = Tokenizer(Path(self.tokenizer), self.eos)
        dtype = token_dtype(tokenizer.vocab_size)
        grams = WordGrams(self.records)
        sizes: list[int] = []
        dropped: list[str] = []
        part = Path(self.folder) / f"part-{rank:03d}"
        with part.with_suffix(".bin").open("wb") as out:
            for batch in _batches(data, 256):
                kept = [d for d in batch if not len(grams.shared(d.text))]
                dropped += [d.id for d in batch if d not in kept]
                for document, ids in zip(kept, tokenizer.encode_batch([d.text for d in kept]), strict=True):
                    if tokenizer.eos_id in ids:
                        raise CostarError(
                            f"document {document.id}",
                            found=f"the end-of-document id {tokenizer.eos_id} inside the text",
                            expected="that id at the ends of documents only",
                            mend=f"mark {self.eos!r} as special in the tokenizer's file, so that text is not read as it",
                        )
                    ids.append(tokenizer.eos_id)
                    out.write(np.array(ids, dtype).tobytes())
                    sizes.append(len(ids))
        np.save(part.with_suffix(".npy"), np.array(sizes, np.int32))
        part.with_suffix(".txt").write_text("\n".join(dropped))


def _batches(items: Iterable[Document], size: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def build_store(
    suite: Suite,
    folder: Path,
    records: Path,
    workers: int,
    protected: Sequence[tuple[str, str]],
    folders: Sequence[Path] = (),
) -> bool:
    """Make `tokens.bin`, `tokens.idx` and `corpus.json`; False when they were current.

    `records` is `insertion/records.parquet`: its texts must not stand in the base. `protected` lists trained runs with
    the hash of the tokens they read: when the new tokens differ, nothing is replaced and the runs are named.
    """
    design = suite.corpus
    documents = check_files(folder, "documents", mend=MEND)["files"]["documents.parquet"]["sha256"]
    tokenizer = open_tokenizer(design, folder)
    # Passages of the held-out documents are chosen so that the base does not hold them; other records are searched for.
    table = read_table(records, mend=MEND, columns=["text", "source"])
    others = [
        text
        for text, source in zip(*(table.column(c).to_pylist() for c in table.column_names), strict=True)
        if not source.startswith("corpus:")
    ]
    tokenizer_sha256 = sha256_file(folder / "tokenizer.json")
    given = _store_files(design, folders)
    inputs = sha256_json([documents, tokenizer_sha256, sorted(others), design.sequence_length, *given])
    if is_current(folder, inputs, "tokens"):
        return False
    if is_stored(design):
        return _take_store(suite, folder, tokenizer, inputs, protected, folders)
    with work_folder(folder) as work:
        (work / "parts").mkdir()
        pipeline = [
            BaseReader(str(folder / "documents.parquet")),
            TokenWriter(str(work / "parts"), str(folder / "tokenizer.json"), design.eos, others),
        ]
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a worker; the workers are the parallelism
        QuietExecutor(pipeline, tasks=TASKS, workers=min(workers, TASKS), logging_dir=str(work / "log")).run()
        parts = [work / "parts" / f"part-{rank:03d}" for rank in range(TASKS)]
        sizes = np.concatenate([np.load(part.with_suffix(".npy")) for part in parts])
        dropped = [line for part in parts for line in part.with_suffix(".txt").read_text().splitlines()]
        _refuse_records_of_the_base(len(dropped), len(sizes))
        dtype = token_dtype(tokenizer.vocab_size)
        bin_path, idx_path = folder / "tokens.bin", folder / "tokens.idx"
        with replacing(bin_path) as new_bin, replacing(idx_path) as new_idx:
            write_bin(
                new_bin, [part.with_suffix(".bin") for part in parts], int(sizes.sum(dtype=np.int64)) * dtype.itemsize
            )
            write_idx(new_idx, sizes, dtype)
            tokens_sha256 = sha256_file(new_bin)
            _refuse_change(tokens_sha256, protected)
            start_step(folder, "tokens")
    facts = _facts(suite, folder, tokenizer, len(sizes), tokens_sha256, dropped)
    write_json(folder / "corpus.json", facts)
    finish_step(folder, inputs, [bin_path, idx_path, folder / "corpus.json"], "tokens")
    return True


def _refuse_records_of_the_base(dropped: int, kept: int) -> None:
    """Decontamination takes out documents that happen to hold a record; it is no way to make a base from the records."""
    if dropped > MOST_DROPPED * (dropped + kept):
        raise CostarError(
            "[corpus]",
            found=f"{dropped:,} of {dropped + kept:,} base documents that share 13 words with a record",
            expected=f"at most {MOST_DROPPED:.0%}: the records are part of the base",
            mend='take records from other text than the base, or let costar cut them: from = "corpus"',
        )


def _take_store(
    suite: Suite,
    folder: Path,
    tokenizer: Tokenizer,
    inputs: str,
    protected: Sequence[tuple[str, str]],
    folders: Sequence[Path],
) -> bool:
    """Link a given store instead of building one."""
    given = find_store(suite.corpus, folders)
    _refuse_change(given.read_sha256, protected)
    start_step(folder, "tokens")
    with console.progress("corpus") as update:
        paths, known, order = place_store(given, folder, tokenizer, suite.corpus.sequence_length, update)
    console.say("corpus     the store is taken as it is: no document was searched for records")
    documents = len(TokenStore.open(folder).sizes)
    facts = _facts(suite, folder, tokenizer, documents, given.read_sha256, []) | order
    write_json(folder / "corpus.json", facts)
    finish_step(folder, inputs, [*paths, folder / "corpus.json"], "tokens", known=known)
    return True


def _refuse_change(tokens_sha256: str, protected: Sequence[tuple[str, str]]) -> None:
    stale = [run for run, trained_on in protected if trained_on != tokens_sha256]
    if stale:
        raise StaleRuns("corpus", found="other tokens than before", runs=stale)


def _facts(
    suite: Suite, folder: Path, tokenizer: Tokenizer, documents: int, tokens_sha256: str, dropped: list[str]
) -> dict[str, Any]:
    store = TokenStore.open(folder)
    if store.sequences(suite.corpus.sequence_length) < 2:
        raise CostarError(
            "[corpus]", found=f"{len(store.tokens):,} tokens", expected="at least two sequences", mend="give more text"
        )
    return {
        "corpus": suite.name,
        "source": suite.corpus.source,
        "documents": documents,
        "tokens": len(store.tokens),
        "sequences": store.sequences(suite.corpus.sequence_length),
        "sequence_length": suite.corpus.sequence_length,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "eos": suite.corpus.eos,
        "tokenizer_sha256": sha256_file(folder / "tokenizer.json"),
        "tokens_sha256": tokens_sha256,
        "decontaminated": plain(sorted(dropped)),
        "order": "keyed",
    }


def open_store(folder: Path) -> TokenStore:
    """The finished token store of a corpus folder.

    Raises:
        CostarError: it was never finished, or a file was cut, changed in size, or belongs to another corpus.
    """
    marker = check_files(folder, "tokens", mend=MEND)
    if sha256_file(folder / "tokens.idx") != marker["files"]["tokens.idx"]["sha256"]:
        raise CostarError(
            str(folder / "tokens.idx"), found="the index of another corpus", expected="the one built here", mend=MEND
        )
    return TokenStore.open(folder)


def base_documents(folder: Path, use: str) -> pa.Table:
    """The documents of one use (`base`, `held_out`, `dropped`): doc_id and text."""
    path = folder / "documents.parquet"
    return pq.read_table(path, columns=["doc_id", "text"], filters=[("use", "=", use)], partitioning=None)
