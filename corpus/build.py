"""The steps of `costar corpus`: documents, tokenizer, token store. Records come between the last two, from `insertion`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from datatrove.pipeline.base import PipelineStep

from ..core import console
from ..core.design import CorpusDesign, Suite
from ..core.errors import CostarError, StaleRuns
from ..core.hashing import sha256_file, sha256_json
from ..core.parquet import write_table
from ..core.workspace import (
    check_files,
    finish_step,
    is_current,
    read_marker,
    replacing,
    start_step,
    write_json,
)
from ..manifests.tables import DOCUMENTS
from .documents import Listed, ReadWriter, SourceReader, list_items, load_source
from .duplicates import Runner
from .executors import SMALL, Backend, drop_work, resumable_folder, run_tasks
from .facts import corpus_row, refuse_change
from .parts import code_sha256, join_parts, row_batches
from .quality import check_quality
from .reading import MEND, corpus_eos, open_tokenizer, sizes_of, texts_of
from .reuse import other_corpus, take_documents
from .searched import load_searched
from .settle import settle
from .statistics import step_table
from .store import token_dtype
from .stored import find_store
from .taking import take_store
from .tokenizer import FAST, Tokenizer, train_bpe
from .tokens import Inputs, TokenWriter, UsedReader, join_dropped, join_tokens

DOCUMENT_CODE = ("documents", "duplicates", "quality", "regex_words", "settle", "lines")
TOKEN_CODE = ("decontaminate", "grams", "near", "words", "searched", "tokens", "encoder")
MOST_DROPPED = 0.2  # share of the base documents that records may take out
TRAINED_ON = 200_000_000  # bytes of text that a tokenizer is trained on, a keyed sample where the base has more
TASK_BYTES = 1 << 20
PROOF_DOCUMENTS = 2_000  # on these the fast encoder must agree before it is used …
PROOF_PLACES = 50  # … from so many places of the corpus


@contextlib.contextmanager
def _work(folder: Path, step: str, inputs: str) -> Iterator[Path]:
    """The work folder of a step: kept when it is killed, taken away when it is done or its input is refused."""
    work = resumable_folder(folder, step, inputs)
    try:
        yield work
    except CostarError as error:
        if error.exit_code == 2:
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
    tokenizer = given_tokenizer(design, folders)  # what is wrong with it, or with a given store, shows before any work
    if tokenizer is not None:
        Tokenizer(tokenizer, design.eos)
    if is_stored(design):
        find_store(design, folders)
    facts = _source_facts(design, items)
    inputs = sha256_json([_document_code(design), suite.seed, *_document_keys(design), facts, _listing(items)])
    if is_current(folder, inputs, "documents"):
        drop_work(folder, "documents")
        return False
    path, facts_path = folder / "documents.parquet", folder / "source.json"
    with _work(folder, "documents", sha256_json([inputs, design.tasks])) as work:
        if is_stored(design):
            made = write_table(work / "new.parquet", DOCUMENTS.empty_table())
        else:
            console.say(f"corpus     reading {len(items):,} files of {design.source}")
            with console.progress("corpus") as update:
                size = _size(items, design)
                tasks, run = _tasks(design, size), _runner(work, backend, update, size)
                run([SourceReader(items), ReadWriter(str(work), design.quality)], tasks, "read")
                made = join_parts(work / "new.parquet", settle(design, suite.seed, work, tasks, run), DOCUMENTS)
            _refuse_few(made, design)
        _refuse_other(made, path, "documents", protected)
        start_step(folder, "documents")
        os.replace(made, path)
        write_json(facts_path, facts)
        finish_step(folder, inputs, [path, facts_path], "documents")
    return True


def _runner(work: Path, backend: Backend, update: console.Update, size: int) -> Runner:
    """Runs a pipeline over `size` bytes as tasks of a step; each pipeline keeps its marks in a folder of its own."""
    chosen = backend.sized(size)

    def run(pipeline: Sequence[PipelineStep], tasks: int, name: str) -> None:
        run_tasks(pipeline, tasks=tasks, folder=work / f"tasks-{name}", name=name, backend=chosen, progress=update)

    return run


def _tasks(design: CorpusDesign, size: int) -> int:
    """The tasks for text of `size` bytes: no more than it has megabytes, for the result does not depend on them."""
    return max(1, min(design.tasks, size // TASK_BYTES))


def _size(items: Sequence[Listed], design: CorpusDesign) -> int:
    """The bytes to read; of what is no local file, enough for all tasks."""
    return sum(each.size or design.tasks * TASK_BYTES for each in items)


def _document_keys(design: CorpusDesign) -> list[Any]:
    """What of the `[corpus]` table the documents depend on."""
    sources = [[s.name, s.source, s.text, s.megabytes, str(s.share)] for s in design.sources]
    return [sources, str(design.held_out), str(design.validation), design.quality, design.deduplicate]


def _document_code(design: CorpusDesign) -> list[str]:
    """The code that makes documents: another rule is another corpus, and no build goes on with parts of an older one."""
    plugins = sorted({f"sources/{source.source.replace('-', '_')}" for source in design.sources})
    return [code_sha256((*DOCUMENT_CODE, *plugins)), importlib.metadata.version("datatrove")]


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
    return [
        (i.source.name, i.item.name, i.size, 0 if getattr(load_source(i.source.source), "PINNED", False) else i.time)
        for i in items
    ]


def _refuse_few(path: Path, design: CorpusDesign) -> None:
    batches = row_batches(path, ["use", "source"])
    base = (batch.filter(pc.equal(batch.column("use"), "base")).column("source") for batch in batches)
    counts = sum((Counter(sources.to_pylist()) for sources in base), Counter())
    count = counts.total()
    for part in (source.name for source in design.sources if source.name and not counts[source.name]):
        raise CostarError(
            f"[corpus.mixture.{part}]",
            found="no document of it in the base",
            expected="some: others were empty, filtered, repetitions of earlier parts, or beyond its share",
            mend="look at its files and its share, or remove it",
        )
    if count < 2:
        raise CostarError(
            f"[corpus] source {design.source!r}",
            found=f"{count} documents for the base",
            expected="at least 2",
            mend="give more text",
        )


def is_stored(design: CorpusDesign) -> bool:
    """Whether the source is a token store that another tool built."""
    return any(source.is_stored for source in design.sources)


def check_source(suite: Suite, folders: Sequence[Path] = ()) -> None:
    """The source exists, and the suite asks nothing of it that it cannot give; files of a user's own are there."""
    check_quality(suite.corpus.quality)
    if folders and suite.corpus.sources and not is_stored(suite.corpus):
        given_tokenizer(suite.corpus, folders)
        list_items([source for source in suite.corpus.sources if source.source == "files"], folders)
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
    given = given_tokenizer(design, folders)
    path, eos = folder / "tokenizer.json", corpus_eos(design, folder)
    inputs = sha256_json([sha256_file(given) if given else documents, design.vocabulary, eos])
    if is_current(folder, inputs, "tokenizer"):
        return False
    with replacing(path) as temporary:
        if given:
            shutil.copyfile(given, temporary)
        else:
            assert design.vocabulary is not None
            size = sum(sizes_of(folder, "base"))
            train_bpe(texts_of(folder, "base", TRAINED_ON / max(size, 1)), design.vocabulary, eos, temporary)
        Tokenizer(temporary, eos)
        _refuse_other(temporary, path, "tokenizer", protected)
        start_step(folder, "tokenizer")
    finish_step(folder, inputs, [path], "tokenizer")
    return True


def given_tokenizer(design: CorpusDesign, folders: Sequence[Path]) -> Path | None:
    """The tokenizer file that a suite names, or that of the corpus it takes; None where one is trained.

    Raises:
        CostarError: it is not there.
    """
    if design.reuse is not None:
        return other_corpus(design.reuse, folders) / "tokenizer.json"
    if design.tokenizer_file is None:
        return None
    found = next((f / design.tokenizer_file for f in folders if (f / design.tokenizer_file).is_file()), None)
    if found is None:
        raise CostarError(
            f"[corpus] tokenizer file {design.tokenizer_file!r}",
            found="no such file",
            expected=f"a file below {' or '.join(map(str, folders))}",
            mend="correct the path, or set `data` in machine.toml",
        )
    return found


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
        return take_store(suite, folder, tokenizer, protected, folders)
    records, renderings = insertion / "records.parquet", insertion / "renderings.parquet"
    searched = [[each.record_id, each.texts] for each in load_searched(records, renderings, tokenizer)]
    inputs = sha256_json(
        [code_sha256(TOKEN_CODE), documents, tokenizer_sha256, sorted(searched), design.sequence_length]
    )
    if is_current(folder, inputs, "tokens"):
        drop_work(folder, "tokens")
        return False
    path = folder / "documents.parquet"
    if sha256_file(path) != documents:
        raise CostarError(
            str(path), found="other bytes than when it was built", expected="documents as they were", mend=MEND
        )
    with _work(folder, "tokens", sha256_json([inputs, design.tasks])) as work:
        size = sum(sizes_of(folder, "base"))
        tasks = _tasks(design, size)
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
            run([UsedReader(str(path)), TokenWriter(str(work), given)], tasks, "tokens")
        dropped = join_dropped(work, tasks)
        dtype = token_dtype(tokenizer.vocab_size)
        joined = {
            use: join_tokens(work, use, tasks, work / f"{use}.bin", work / f"{use}.idx", dtype)
            for use in ("base", "validation")
        }
        _refuse_records_of_the_base(len(dropped), joined["base"].documents)
        refuse_change(joined["base"].sha256, protected)
        start_step(folder, "tokens")
        paths = [folder / "tokens.bin", folder / "tokens.idx"]
        moved = dict(zip(("base.bin", "base.idx"), paths))
        if design.validation:
            moved |= {f"validation.{ending}": folder / f"validation.{ending}" for ending in ("bin", "idx")}
        for ending in ("bin", "idx"):
            (folder / f"validation.{ending}").unlink(missing_ok=True)
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
