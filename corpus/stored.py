"""Taking over a token store that another tool built: linked into the suite, and checked token by token once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..core.console import Update
from ..core.errors import CostarError
from .documents import Item
from .store import TokenStore, token_dtype
from .tokenizer import Tokenizer

CHUNK = 1 << 26


def link_store(items: Sequence[Item], folder: Path, tokenizer: Tokenizer, progress: Update) -> tuple[Path, Path]:
    """Make `tokens.bin` and `tokens.idx` links to a given pair, when its tokens are what a suite needs.

    Raises:
        CostarError: ids that the tokenizer lacks, or documents that do not end with EOS and hold none inside.
    """
    targets = (folder / "tokens.bin", folder / "tokens.idx")
    for item, target in zip(items, targets, strict=True):
        temporary = target.with_name(f".{target.name}.{os.getpid()}.link")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(item.path)
        os.replace(temporary, target)
    check_store(TokenStore.open(folder), tokenizer, items[0].path, progress)
    return targets


def check_store(store: TokenStore, tokenizer: Tokenizer, place: str, progress: Update) -> None:
    """One pass over the tokens of a store."""
    tokens, eos = store.tokens, tokenizer.eos_id
    if tokens.dtype != token_dtype(tokenizer.vocab_size):
        raise CostarError(
            place,
            found=f"ids of type {tokens.dtype}",
            expected=f"{token_dtype(tokenizer.vocab_size)}, for a vocabulary of {tokenizer.vocab_size:,}",
            mend="name the tokenizer that the store was made with",
        )
    ends = np.cumsum(store.sizes, dtype=np.int64)
    found = 0
    for first in range(0, len(tokens), CHUNK):
        progress(first / len(tokens), "tokens")
        part = np.asarray(tokens[first : first + CHUNK])
        low, high = int(part.min()), int(part.max())
        if low < 0 or high >= tokenizer.vocab_size:
            raise CostarError(
                place,
                found=f"id {low if low < 0 else high}",
                expected=f"ids from 0 to {tokenizer.vocab_size - 1:,}",
                mend="name the tokenizer that the store was made with",
            )
        found += int((part == eos).sum())
    last = np.array([tokens[end - 1] for end in ends[ends > 0][:: max(1, len(ends) // 100_000)]])
    if found != len(store.sizes) or (last != eos).any():
        raise CostarError(
            place,
            found=f"{found:,} end-of-document ids {eos} in {len(store.sizes):,} documents",
            expected="one at the end of every document, and none inside",
            mend="name the end-of-document token: [corpus] tokenizer = { file = …, eos = … }",
        )
