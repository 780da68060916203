"""The steps of `costar corpus`: documents, tokenizer, token store. Records come between the last two, from `insertion`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from datatrove.pipeline.base import PipelineStep

from ..core import console
from ..core.design import CorpusDesign, Suite
from ..core.errors import CostarError, StaleRuns
from ..core.hashing import keyed_unit, sha256_file, sha256_json
from ..core.parquet import write_table
from ..core.workspace import (
    HASHED_AT_ONCE,
    check_files,
    corpus_facts_in,
    finish_step,
    is_current,
    read_facts,
    read_marker,
    replacing,
    start_step,
    write_json,
)
from ..manifests.tables import CORPUS_STEPS, DOCUMENTS, DROPPED
from .documents import Listed, ReadWriter, SourceReader, file_stat, list_items, load_source
from .executors import Backend, resumable_folder, run_tasks
from .parts import join_parts
from .quality import check_quality
from .reuse import link, other_corpus, take_documents, token_files
from .searched import load_searched
from .settle import Runner, settle
from .statistics import step_table
from .store import TokenStore, token_dtype
from .stored import find_store, place_store
from .tokenizer import FAST, Tokenizer, train_bpe
from .tokens import Inputs, TokenWriter, UsedReader, join_dropped, join_tokens

MEND = "run `costar corpus`"
VERSION = 1  # of what documents are dropped for: another one makes documents and tokens again
MOST_DROPPED = 0.2  # share of the base documents that records may take out
TRAINED_ON = 1_000_000_000  # bytes of text that a tokenizer is trained on, a keyed sample where the base has more
SMALL = 8_000_000  # bytes of text that are worked through before other processes would have started
PROOF_DOCUMENTS = 2_000  # on these the fast encoder must agree before it is used …
PROOF_PLACES = 50  # … from so many places of the corpus


@contextlib.contextmanager
def _work(folder: Path, step: str, inputs: str) -> Iterator[Path]:
    """The work folder of a step: kept when it is killed, taken away when it is done or its result is refused."""
    work = resumable_folder(folder, step, inputs)
    try:
        yield work
    except StaleRuns:
        shutil.rmtree(work)
        raise
    shutil.rmtree(work)


def _refuse_other(made: Path, path: Path, what: str, protected: Sequence[str]) -> None:
    """Stop before a file that trained runs depend on is replaced by another one."""
    marker = read_marker(path.parent, what)
    if protected and marker and sha256_file(made) != marker["files"][path.name]["sha256"]:
        raise StaleRuns(
            what, found=f"other {what} than before (another installation, or changed files)", runs=protected
        )


def build_documents(
    suite: Suite, folder: Path, folders: Sequence[Path], backend: Backend, protected: Sequence[str] = ()
) -> bool:
    """Make `documents.parquet`; False when it was current. `folders` are where relative paths start.

    `protected` names trained runs: when the documents would change, nothing is replaced and the runs are named.
    """
    design = suite.corpus
    if design.reuse is not None:
        return take_documents(other_corpus(design.reuse, folders), folder, protected, _refuse_other)
    items = list_items(design.sources, folders)
    if is_stored(design):
        find_store(design, folders)  # its tables too, before records are made
    facts = _source_facts(design, items)
    inputs = sha256_json([VERSION, suite.seed, *_document_keys(design), facts, _listing(items)])
    if is_current(folder, inputs, "documents"):
        return False
    path, facts_path = folder / "documents.parquet", folder / "source.json"
    with _work(folder, "documents", inputs) as work:
        if is_stored(design):
            made = write_table(work / "new.parquet", DOCUMENTS.empty_table())
        else:
            console.say(f"corpus     reading {len(items):,} files of {design.source}")
            with console.progress("corpus") as update:
                run = _runner(work, backend, update, sum(each.size for each in items))
                run([SourceReader(items), ReadWriter(str(work), design.quality)], design.tasks, "read")
                made = join_parts(work / "new.parquet", settle(design, suite.seed, work, design.tasks, run), DOCUMENTS)
            _refuse_few(made, design)
        _refuse_other(made, path, "documents", protected)
        start_step(folder, "documents")
        os.replace(made, path)
        write_json(facts_path, facts)
        finish_step(folder, inputs, [path, facts_path], "documents")
    return True


def _runner(work: Path, backend: Backend, update: console.Update, size: int) -> Runner:
    """Runs a pipeline over `size` bytes as tasks of a step; each pipeline keeps its marks in a folder of its own."""
    chosen = replace(backend, inline=0 < size < SMALL)

    def run(pipeline: Sequence[PipelineStep], tasks: int, name: str) -> None:
        run_tasks(pipeline, tasks=tasks, folder=work / f"tasks-{name}", name=name, backend=chosen, progress=update)

    return run


def _document_keys(design: CorpusDesign) -> list[Any]:
    """What of the `[corpus]` table the documents depend on."""
    sources = [[s.name, s.source, s.text, s.megabytes, str(s.share)] for s in design.sources]
    return [sources, str(design.held_out), str(design.validation), design.quality, design.deduplicate, design.tasks]


def _source_facts(design: CorpusDesign, listed: Sequence[Listed]) -> dict[str, Any]:
    """What the text depends on besides the files: `differs` lists versions that are not the pinned ones."""
    facts = {}
    for source in design.sources:
        items = [each.item for each in listed if each.source == source]
        facts[source.name] = load_source(source.source).facts(source, items)
    if "" in facts:
        return dict(facts[""])
    return {"differs": [each for part in facts.values() for each in part["differs"]], "mixture": facts}


def _listing(items: Sequence[Listed]) -> list[tuple[str, str, int, int]]:
    """Names, sizes and, where a user may edit them, times of the files."""
    edited = ("files", "hub")
    return [(i.source.name, i.item.name, i.size, i.time if i.source.source in edited else 0) for i in items]


def _refuse_few(path: Path, design: CorpusDesign) -> None:
    with pq.ParquetFile(path) as file:
        uses = (batch.column("use") for batch in file.iter_batches(columns=["use"]))
        count = sum(pc.sum(pc.equal(use, "base")).as_py() or 0 for use in uses)
    if count < 2:
        raise CostarError(
            f"[corpus] source {design.source!r}",
            found=f"{count} documents for the base",
            expected="at least 2",
            mend="give more text",
        )


def is_stored(design: CorpusDesign) -> bool:
    """Whether the source is a token store that another tool built."""
    return any(getattr(load_source(source.source), "STORED", False) for source in design.sources)


def check_source(suite: Suite) -> None:
    """The source exists, and the suite asks nothing of it that it cannot give."""
    check_quality(suite.corpus.quality)
    wanting = [p.name for p in suite.perturbations.values() if p.origin == "corpus"]
    wanting += [f"filler of {arm.name}" for arm in suite.arms.values() if arm.filler == "base"]
    if is_stored(suite.corpus) and (wanting or suite.corpus.tokenizer_file is None):
        raise CostarError(
            f"[corpus] source {suite.corpus.source!r}",
            found=f"held-out text for {', '.join(wanting)}" if wanting else "no tokenizer file",
            expected="records from elsewhere, and the tokenizer that the store was made with",
            mend="take records from files, the Hub or a generator, and give tokenizer = { file = … }",
        )


def build_tokenizer(design: CorpusDesign, folder: Path, folders: Sequence[Path], protected: Sequence[str] = ()) -> bool:
    """Make `tokenizer.json`, trained on the base documents or copied; False when it was current."""
    documents = check_files(folder, "documents", mend=MEND)["files"]["documents.parquet"]["sha256"]
    given: Path | None = None
    if design.reuse is not None:
        given = other_corpus(design.reuse, folders) / "tokenizer.json"
    elif design.tokenizer_file:
        given = next((f / design.tokenizer_file for f in folders if (f / design.tokenizer_file).is_file()), None)
        if given is None:
            raise CostarError(
                f"[corpus] tokenizer file {design.tokenizer_file!r}",
                found="no such file",
                expected=f"a file below {' or '.join(map(str, folders))}",
                mend="correct the path, or set `data` in machine.toml",
            )
    path, eos = folder / "tokenizer.json", corpus_eos(design, folder)
    inputs = sha256_json([sha256_file(given) if given else documents, design.vocabulary, eos])
    if is_current(folder, inputs, "tokenizer"):
        return False
    with replacing(path) as temporary:
        if given:
            shutil.copyfile(given, temporary)
        else:
            assert design.vocabulary is not None
            size = sum(_sizes(folder, "base"))
            train_bpe(texts_of(folder, "base", TRAINED_ON / max(size, 1)), design.vocabulary, eos, temporary)
        Tokenizer(temporary, eos)
        _refuse_other(temporary, path, "tokenizer", protected)
        start_step(folder, "tokenizer")
    finish_step(folder, inputs, [path], "tokenizer")
    return True


def _sizes(folder: Path, use: str) -> Iterator[int]:
    with pq.ParquetFile(folder / "documents.parquet") as file:
        for batch in file.iter_batches(columns=["n_bytes", "use"]):
            yield pc.sum(batch.filter(pc.equal(batch.column("use"), use)).column("n_bytes")).as_py() or 0


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


def build_store(
    suite: Suite,
    folder: Path,
    insertion: Path,
    backend: Backend,
    protected: Sequence[tuple[str, str]],
    folders: Sequence[Path] = (),
) -> bool:
    """Make `tokens.bin`, `tokens.idx`, `dropped.parquet`, `corpus_steps.parquet` and `corpus.json`; False when they were current.

    `insertion` holds the finished records: their texts must not stand in the base. `protected` lists trained runs with
    the hash of the tokens they read: when the new tokens differ, nothing is replaced and the runs are named.
    """
    design = suite.corpus
    documents = check_files(folder, "documents", mend=MEND)["files"]["documents.parquet"]["sha256"]
    tokenizer = open_tokenizer(design, folder)
    tokenizer_sha256 = sha256_file(folder / "tokenizer.json")
    if design.reuse is not None or is_stored(design):
        return _take_store(suite, folder, tokenizer, protected, folders)
    records, renderings = insertion / "records.parquet", insertion / "renderings.parquet"
    searched = [[each.record_id, each.texts] for each in load_searched(records, renderings, tokenizer)]
    inputs = sha256_json([VERSION, documents, tokenizer_sha256, sorted(searched), design.sequence_length, design.tasks])
    if is_current(folder, inputs, "tokens"):
        return False
    path = folder / "documents.parquet"
    if sha256_file(path) != documents:
        raise CostarError(
            str(path), found="other bytes than when it was built", expected="documents as they were", mend=MEND
        )
    with _work(folder, "tokens", inputs) as work:
        size = sum(_sizes(folder, "base"))
        given = Inputs(
            documents=str(path),
            tokenizer=str(folder / "tokenizer.json"),
            eos=design.eos,
            records=str(records),
            renderings=str(renderings),
            fast=size >= SMALL and _prove_encoder(tokenizer, folder),
        )
        with console.progress("corpus") as update:
            run = _runner(work, backend, update, size)
            run([UsedReader(str(path)), TokenWriter(str(work), given)], design.tasks, "tokens")
        dropped = join_dropped(work, design.tasks)
        dtype = token_dtype(tokenizer.vocab_size)
        joined = {
            use: join_tokens(work, use, design.tasks, work / f"{use}.bin", work / f"{use}.idx", dtype)
            for use in ("base", "validation")
        }
        _refuse_records_of_the_base(len(dropped), joined["base"].documents)
        _refuse_change(joined["base"].sha256, protected)
        start_step(folder, "tokens")
        paths = [folder / "tokens.bin", folder / "tokens.idx"]
        moved = dict(zip(("base.bin", "base.idx"), paths))
        if design.validation:
            moved |= {f"validation.{ending}": folder / f"validation.{ending}" for ending in ("bin", "idx")}
        for name, target in moved.items():
            os.replace(work / name, target)
        tables = [write_table(folder / "dropped.parquet", dropped)]
        tables.append(write_table(folder / "corpus_steps.parquet", step_table(path, dropped)))
        counts = {"documents": joined["base"].documents, "dropped": len(dropped)}
        counts |= {f"validation_{k}": getattr(joined["validation"], k) for k in ("documents", "tokens")}
        facts = corpus_row(suite, folder, tokenizer, counts, joined["base"].sha256)
        write_json(folder / "corpus.json", facts)
        known = {paths[0]: joined["base"].sha256}
        finish_step(folder, inputs, [*moved.values(), *tables, folder / "corpus.json"], "tokens", known=known)
    return True


def _prove_encoder(tokenizer: Tokenizer, folder: Path) -> bool:
    """Whether the fast encoder may be used: it gives the same ids on a sample of this corpus. Loud where it does not."""
    sample: list[str] = []
    with pq.ParquetFile(folder / "documents.parquet") as file:
        groups = range(0, file.num_row_groups, -(-file.num_row_groups // PROOF_PLACES) or 1)
        for group in groups:
            texts = file.read_row_group(group, columns=["text"]).column("text")
            sample += texts.slice(0, PROOF_DOCUMENTS // len(groups)).to_pylist()
    verdict = tokenizer.accelerate(sample)
    if verdict != FAST:
        console.say(f"corpus     three to ten times slower than it could be: {verdict}")
    return verdict == FAST


def _refuse_records_of_the_base(dropped: int, kept: int) -> None:
    """Decontamination takes out documents that happen to hold a record; it is no way to make a base from the records."""
    if dropped > MOST_DROPPED * (dropped + kept):
        raise CostarError(
            "[corpus]",
            found=f"{dropped:,} of {dropped + kept:,} base documents that hold a record",
            expected=f"at most {MOST_DROPPED:.0%}: the records are part of the base",
            mend='take records from other text than the base, or let costar cut them: from = "corpus"',
        )


def _take_store(
    suite: Suite,
    folder: Path,
    tokenizer: Tokenizer,
    protected: Sequence[tuple[str, str]],
    folders: Sequence[Path],
) -> bool:
    """Link a store instead of building one: another tool's, or that of another suite."""
    design = suite.corpus
    other = other_corpus(design.reuse, folders) if design.reuse is not None else None
    store = None if other else find_store(design, folders)
    given: Any = (
        token_files(other) if other else [(item.name, *file_stat(item)) for item in store.items] if store else []
    )
    inputs = sha256_json([sha256_file(folder / "tokenizer.json"), given, design.sequence_length])
    if is_current(folder, inputs, "tokens"):
        return False
    counts = {"dropped": 0, "validation_documents": 0, "validation_tokens": 0}
    if other is not None:
        theirs = corpus_facts_in(other)
        _refuse_other_length(design, theirs)
        digest = theirs["tokens_sha256"]
        _refuse_change(digest, protected)
        start_step(folder, "tokens")
        paths = [link(other / name, folder) for name in sorted(given)]
        counts |= {name: theirs[name] for name in counts}
        known = {folder / name: entry["sha256"] for name, entry in given.items()}
        told = ("order", "order_sha256", "sequences") if theirs["order"] == "table" else ("order",)
        order = {name: theirs[name] for name in told}
    else:
        assert store is not None
        digest = store.read_sha256
        _refuse_change(digest, protected)
        start_step(folder, "tokens")
        with console.progress("corpus") as update:
            paths, known, order = place_store(store, folder, tokenizer, design.sequence_length, update)
        paths.append(write_table(folder / "dropped.parquet", DROPPED.empty_table()))
        paths.append(write_table(folder / "corpus_steps.parquet", CORPUS_STEPS.empty_table()))
        console.say("corpus     the store is taken as it is: no document is dropped because it holds a record")
    counts["documents"] = len(TokenStore.open(folder).sizes)
    write_json(folder / "corpus.json", corpus_row(suite, folder, tokenizer, counts, digest) | order)
    finish_step(folder, inputs, [*paths, folder / "corpus.json"], "tokens", known=known)
    return True


def _refuse_other_length(design: CorpusDesign, theirs: dict[str, Any]) -> None:
    """Order tables are made for one sequence length."""
    if theirs["order"] == "table" and theirs["sequence_length"] != design.sequence_length:
        raise CostarError(
            "[corpus] sequence_length",
            found=f"{design.sequence_length:,}",
            expected=f"{theirs['sequence_length']:,}, that of the order tables of {design.reuse}",
            mend="set it",
        )


def _refuse_change(tokens_sha256: str, protected: Sequence[tuple[str, str]]) -> None:
    stale = [run for run, trained_on in protected if trained_on != tokens_sha256]
    if stale:
        raise StaleRuns("corpus", found="other tokens than before", runs=stale)


def corpus_row(
    suite: Suite, folder: Path, tokenizer: Tokenizer, counts: dict[str, int], tokens_sha256: str
) -> dict[str, Any]:
    """`corpus.json`: the facts of a finished corpus. `corpus_sha256` names tokens, tokenizer and what was dropped."""
    store = TokenStore.open(folder)
    sequences = store.sequences(suite.corpus.sequence_length)
    if sequences < 2:
        raise CostarError(
            "[corpus]", found=f"{len(store.tokens):,} tokens", expected="at least two sequences", mend="give more text"
        )
    hashes = {
        "tokenizer_sha256": sha256_file(folder / "tokenizer.json"),
        "tokens_sha256": tokens_sha256,
        "dropped_sha256": sha256_file(folder / "dropped.parquet"),
    }
    return {
        "corpus": suite.name,
        "source": suite.corpus.source,
        "tokens": len(store.tokens),
        "sequences": sequences,
        "sequence_length": suite.corpus.sequence_length,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "eos": corpus_eos(suite.corpus, folder),
        "corpus_sha256": sha256_json(hashes),
        "order": "keyed",
        **counts,
        **hashes,
    }


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
    with pq.ParquetFile(folder / "documents.parquet") as file:
        for batch in file.iter_batches(2048, columns=["doc_id", "text", "use"]):
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
