"""Taking over a token store that another tool built: linked into the suite, and checked token by token once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core.console import Update
from ..core.design import CorpusDesign
from ..core.errors import CostarError
from ..core.hashing import sha256_json
from .documents import Item, load_source
from .links import replace_link
from .ordered import find_tables, link_tables
from .shards import place_shards
from .store import TokenStore, check_idx, token_dtype
from .tokenizer import Tokenizer

CHUNK = 1 << 26
HASHED = 1 << 24


@dataclass(frozen=True, kw_only=True)
class GivenStore:
    """The files of a store that another tool built: tokens, their indexes, and order tables if the suite names some."""

    tokens: Sequence[Item]
    indexes: Sequence[Item]
    tables: Sequence[Item]

    @property
    def items(self) -> list[Item]:
        return [*self.tokens, *self.indexes, *self.tables]

    @cached_property
    def tokens_sha256(self) -> str:
        """The hash of the tokens, of several files one after the other."""
        return _joined_sha256(self.tokens)

    @cached_property
    def read_sha256(self) -> str:
        """The hash of what is read: of the tokens, with order tables of the hashes of all four."""
        if not self.tables:
            return self.tokens_sha256
        return sha256_json([self.tokens_sha256, *(_joined_sha256([table]) for table in self.tables)])


def find_store(design: CorpusDesign, folders: Sequence[Path]) -> GivenStore:
    """The files that a suite names.

    Raises:
        CostarError: one is missing.
    """
    items = load_source(design.sources[0].source).items(design.sources[0], folders)
    return GivenStore(
        tokens=[item for item in items if item.name.endswith((".bin", ".ds"))],
        indexes=[item for item in items if item.name.endswith((".idx", ".index"))],
        tables=find_tables(design.index, folders) if design.index is not None else [],
    )


def place_store(
    given: GivenStore, folder: Path, tokenizer: Tokenizer, length: int, progress: Update
) -> tuple[list[Path], dict[Path, str], dict[str, Any]]:
    """Put a given store into a corpus folder: the files made, hashes of those known, and what `corpus.json` says of it.

    Files are linked; an index that is not there in costar's form is written, and several files of tokens are joined.

    Raises:
        CostarError: ids that the tokenizer lacks, documents that do not end with EOS or hold one inside, an index or
            order tables that do not fit.
    """
    bin_path, idx_path = folder / "tokens.bin", folder / "tokens.idx"
    linked = len(given.tokens) == 1
    if linked:
        replace_link(bin_path, given.tokens[0].path)
    if given.tokens[0].name.endswith(".ds"):
        shards = [Path(item.path) for item in given.tokens]
        place_shards(shards, bin_path, idx_path, token_dtype(tokenizer.vocab_size))
    else:
        replace_link(idx_path, given.indexes[0].path)
    check_idx(idx_path)
    check_store(TokenStore.open(folder), tokenizer, given.tokens[0].path, progress)
    known = {bin_path: given.tokens_sha256} if linked else {}
    links, facts = link_tables(given.tables, folder, length)
    return [bin_path, idx_path, *links], known, facts


def _joined_sha256(items: Sequence[Item]) -> str:
    state = hashlib.sha256()
    for item in items:
        with Path(item.path).open("rb") as file:
            while block := file.read(HASHED):
                state.update(block)
    return state.hexdigest()


def check_store(store: TokenStore, tokenizer: Tokenizer, place: str, progress: Update) -> None:
    """One pass over the tokens of a store: they are the tokenizer's, and every document ends with EOS and holds none."""
    tokens, eos, documents = store.tokens, tokenizer.eos_id, len(store.sizes)
    if tokens.dtype != token_dtype(tokenizer.vocab_size):
        raise CostarError(
            place,
            found=f"ids of type {tokens.dtype}",
            expected=f"{token_dtype(tokenizer.vocab_size)}, for a vocabulary of {tokenizer.vocab_size:,}",
            mend="name the tokenizer that the store was made with",
        )
    found, right = 0, True
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
        ends = np.flatnonzero(part == eos) + first + 1
        expected = store.starts[np.minimum(found + 1 + np.arange(len(ends)), documents)]
        right, found = right and np.array_equal(expected, ends), found + len(ends)
    if found != documents or not right:
        raise CostarError(
            place,
            found=f"{found:,} end-of-document ids {eos} in {documents:,} documents",
            expected="one at the end of every document, and none inside",
            mend="name the end-of-document token: [corpus] tokenizer = { file = …, eos = … }",
        )
