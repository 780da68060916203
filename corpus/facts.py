"""`corpus.json`: what a finished corpus is, and which trained runs hold it to that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.design import Suite
from ..core.errors import CostarError, StaleRuns
from ..core.hashing import sha256_file, sha256_json
from .reading import corpus_eos
from .store import TokenStore
from .tokenizer import Tokenizer


def refuse_change(tokens_sha256: str, protected: Sequence[tuple[str, str]]) -> None:
    """Stop before tokens are replaced that trained runs, (run, hash of what it read), depend on."""
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
