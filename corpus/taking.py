"""The token store of a suite that builds none: another tool's, or that of another suite; linked, never copied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core import console
from ..core.design import CorpusDesign, Suite
from ..core.errors import CostarError
from ..core.hashing import sha256_file, sha256_json
from ..core.parquet import write_table
from ..core.workspace import corpus_facts_in, finish_step, is_current, read_marker, start_step, write_json
from ..manifests.tables import CORPUS_STEPS, DROPPED
from .documents import file_stat
from .facts import corpus_row, refuse_change
from .links import share_file
from .reuse import other_corpus, token_files
from .store import TokenStore
from .stored import find_store, place_store
from .tokenizer import Tokenizer


def take_store(
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
        refuse_change(digest, protected)
        start_step(folder, "tokens")
        paths = [share_file(other / name, folder) for name in sorted(given)]
        counts |= {name: theirs[name] for name in counts}
        known = {folder / name: entry["sha256"] for name, entry in given.items()}
        told = ("order", "order_sha256", "sequences") if theirs["order"] == "table" else ("order",)
        order = {name: theirs[name] for name in told}
    else:
        assert store is not None
        digest, before = store.read_sha256, read_marker(folder, "tokens")
        refuse_change(digest, protected)
        if before and corpus_facts_in(folder)["tokens_sha256"] != digest:
            console.say("corpus     the store holds other tokens than when it was taken before")
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
