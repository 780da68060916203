"""The tokenizer: byte-level BPE trained on the base, or a user's `tokenizer.json`.

The text of a document never becomes a special token: a literal `<|endoftext|>` is encoded as ordinary characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from ..core.errors import CostarError, shorten
from .encoder import FastEncoder, derive_encoder
from .encoder_proof import identical

FAST = "tiktoken"
PROBE = "a 1.\n\u00e9\u6f22\U0001f642"  # letters, signs and characters that few vocabularies hold


class Tokenizer:
    """Texts to ids and back. `eos_id` ends documents and never comes from text.

    `fast` says that `accelerate` gave FAST for this file before: whole documents are encoded by tiktoken from the start.
    """

    def __init__(self, path: Path, eos: str, *, fast: bool = False):
        try:
            self.inner = HfTokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception for any unreadable file
            raise CostarError(
                str(path), found=shorten(error), expected="a tokenizer.json of the tokenizers library", mend="check it"
            ) from None
        self.inner.encode_special_tokens = True
        self.inner.no_padding()
        self.inner.no_truncation()
        try:
            self.inner.encode(PROBE, add_special_tokens=False)
        except Exception as error:  # as above
            raise CostarError(
                str(path),
                found=f"no ids for {PROBE!r} ({shorten(error)})",
                expected="a tokenizer that encodes any text",
                mend="use a byte-level one",
            ) from None
        eos_id = self.inner.token_to_id(eos)
        if eos_id is None:
            raise CostarError(
                str(path),
                found=f"no token {eos!r}",
                expected="a token that ends documents",
                mend="name it: [corpus] tokenizer = { file = …, eos = … }",
            )
        self.eos_id: int = eos_id
        self.vocab_size: int = self.inner.get_vocab_size(with_added_tokens=True)
        self._byte_level = isinstance(self.inner.decoder, decoders.ByteLevel)
        self._fast: FastEncoder | None = None
        if fast:
            derived = derive_encoder(self.inner.to_str())
            if isinstance(derived, str):
                raise CostarError(
                    str(path),
                    found=derived,
                    expected="a tokenizer with a proved fast encoder",
                    mend="open it without fast",
                )
            self._fast = derived

    def accelerate(self, sample: Sequence[str]) -> str:
        """Let `encode_documents` use tiktoken if it is proved to give the same ids, on `sample` too: some documents.

        Returns:
            The verdict: FAST, or "tokenizers: " and why, or where the two differ.
        """
        self._fast = None
        derived = derive_encoder(self.inner.to_str())
        problem = derived if isinstance(derived, str) else identical(self.inner, derived, sample)
        if problem is not None or isinstance(derived, str):
            return f"tokenizers: {problem}"
        self._fast = derived
        return FAST

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text, add_special_tokens=False).ids

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """What the file itself puts before a text that a model reads: with some models BOS, with costar's own nothing."""
        bare, whole = self.encode("a"), self.inner.encode("a").ids
        starts = (n for n in range(len(whole)) if whole[n : n + len(bare)] == bare)
        return tuple(whole[: next(starts, 0)])

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and for each the characters [start, end) of the text that it covers."""
        encoding = self.inner.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self.inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of all texts, one after the other without EOS, and how many each text has.

        Uses tiktoken after `accelerate`, but `tokenizers` for single texts on which tiktoken gives up.
        """
        if self._fast is None:
            parts = [np.array(ids, np.int32) for ids in self.encode_batch(texts)]
        else:
            parts = [self._encode_fast(self._fast, text) for text in texts]
        sizes = np.array([len(part) for part in parts], np.int64)
        return np.concatenate([np.empty(0, np.int32), *parts]), sizes

    def _encode_fast(self, fast: FastEncoder, text: str) -> NDArray[np.int32]:
        ids = fast.encode(text)
        return np.array(self.encode(text), np.int32) if ids is None else ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.inner.decode(list(ids), skip_special_tokens=False)

    def byte_count(self, token_id: int) -> int:
        """UTF-8 bytes of a token. In a byte-level vocabulary every character of a token stands for one byte."""
        if self._byte_level:
            return len(self.inner.id_to_token(token_id) or "")
        return len(self.decode([token_id]).encode())

    def encode_record(self, text: str, place: str) -> list[int]:
        """The ids of a record's text.

        Raises:
            CostarError: the text is empty, contains the EOS id, or does not come back when decoded.
        """
        if not text.strip():
            raise CostarError(place, found="empty text", expected="text", mend="fill or remove the record")
        ids = self.encode(text)
        if self.eos_id in ids:
            raise CostarError(
                place,
                found=f"the end-of-document id {self.eos_id} inside the text",
                expected="text without it",
                mend="remove the token's text from the record",
            )
        decoded = self.decode(ids)
        if decoded != text:
            at = next((i for i, (a, b) in enumerate(zip(text, decoded)) if a != b), min(len(text), len(decoded)))
            raise CostarError(
                place,
                found=f"decoding gives {shorten(repr(decoded[at : at + 24]))} at character {at}",
                expected=f"the text again, {shorten(repr(text[at : at + 24]))}",
                mend="change the text (normalization, unknown characters), or use a byte-level tokenizer",
            )
        return ids


def train_bpe(texts: Iterable[str], vocabulary: int, eos: str, path: Path) -> None:
    """Train byte-level BPE on texts and write `tokenizer.json`. Digits stay single, so numbers have fixed lengths."""
    tokenizer = HfTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[eos],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocabulary:
        raise CostarError(
            "[corpus] tokenizer.vocabulary",
            found=f"text for {tokenizer.get_vocab_size():,} tokens only",
            expected=f"{vocabulary:,}",
            mend="ask for a smaller vocabulary or give more text",
        )
    tokenizer.save(str(path))
