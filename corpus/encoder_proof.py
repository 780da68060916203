"""The proof that a fast encoder gives the ids of `tokenizers`: its merges, its splits, nasty strings, and the corpus' text.

The merges are proved by an argument over the whole vocabulary; the splits by a small vocabulary in which every border
of a piece shows, on every character that is not left to `tokenizers` anyway; the rest by comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import models

from ..core.errors import shorten
from .encoder import OLD_BLOCKS, FastEncoder, byte_characters, derive_encoder, merge_pairs, merge_ranks

FRAGMENTS = (
    *(" ", "  ", "     ", "\n", "\r\n", "\n\n", "\t", "\v", "\x85", "\xa0", "\u2003", "\u2028", "\u3000"),
    *("\u200b", "\u200d", "\u2060", "\ufeff", "\x00", "\x1b", "\x7f", "\xad", "\ufffd", "\ue000"),
    *("a", "The", "don", "x_y", "É", "e\u0301", "\u0301\u0327", "q\u0323\u0307", "ß", "ſ", "İ", "ﬁ", "ﬆ", "Å", "Ω"),
    *("1", "2026", "3.14", "1,000", "٣", "७", "Ⅷ", "½", "²", "①", "〇", "𝟗"),
    *("'", "'s", "'S", "'T", "'re", "'ll", "'LL", "'ſ", "’s", '"', "-", "--", "…", "_", "#", "://", "()", "<|", "|>"),
    *("的", "日本語", "한국", "한", "กำ", "नि", "לָ", "مَّ", "🙂", "👨‍👩‍👧", "🇫🇷", "1️⃣", "𝒜"),
)
RARE = ("\U0010ffff", "\U000e0020", "\U00010330")
SPLITTING = (" ", "  ", "\n", "\r\n", " \n ", "\u3000", "\u200b", "1", "'", "e\u0301", "的", "🙂")
BORDERS = b"x sy1'.\n"
PLAIN_LENGTH = 10_000  # characters of a text at which tiktoken must not give up


def identical(tokenizer: HfTokenizer, fast: FastEncoder, sample: Sequence[str]) -> str | None:
    """None when the encoders agree wherever they were compared; otherwise where they differ.

    `tokenizer` encodes the text of special tokens as text. `sample` holds documents of the corpus. Takes about three
    seconds of the processor and what `tokenizers` takes for the sample.
    """
    raw = orjson.loads(tokenizer.to_str())
    added = [token["content"] for token in raw.get("added_tokens") or []]
    return (
        different_merges(raw["model"])
        or _other_ids(raw["model"], fast)
        or _first_difference(tokenizer, fast, nasty_texts(added), "a test string")
        or different_splits(raw)
        or _first_difference(tokenizer, fast, sample, "a document")
    )


def different_splits(raw: dict[str, Any]) -> str | None:
    """Where texts are cut into other pieces than by the tokenizer.json `raw`; None when no difference is found."""
    probe = border_probe(raw)
    fast = derive_encoder(probe.to_str())
    if isinstance(fast, str):
        return f"the probe of its splits has no fast encoder: {fast}"
    return _first_difference(probe, fast, [*every_character(fast), *border_texts()], "the splits", all_of_them=True)


def different_merges(model: dict[str, Any]) -> str | None:
    """Why merging by bytes, as tiktoken does, could differ from merging by the model's pairs; None when it cannot.

    tiktoken merges neighbours when their bytes together are a token, and takes a whole piece that is a token as it is.
    That is the same if every way to cut a token in two is a merge. It is also the same if the parts of every merge were
    made before it and every token's own text is merged into it: a stretch of text that no merge has crossed is merged
    like that text alone, so it is only ever met as the pair that the model merges.
    """
    ranks = merge_ranks(model)
    characters = {byte: character for character, byte in byte_characters().items()}
    names = {"".join(characters[byte] for byte in token): rank for token, rank in ranks.items()}
    pairs = merge_pairs(model)
    late = next((a + b for a, b in pairs if max(names.get(a, -1), names.get(b, -1)) >= names[a + b]), None)
    merged = models.BPE(vocab=model["vocab"], merges=pairs)
    lost = next((token for token in names if [part.value for part in merged.tokenize(token)] != [token]), None)
    if lost is not None and not model.get("ignore_merges"):
        return f"the merges never make the token {lost!r} from its own text"
    if lost is None and late is None:
        return None
    known = set(pairs)
    for token in names:
        for cut in range(1, len(token)):
            pair = (token[:cut], token[cut:])
            if pair[0] in names and pair[1] in names and pair not in known:
                return (
                    f"the merges may make the token {token!r} in several ways, but not from {pair[0]!r} and {pair[1]!r}"
                )
    return None


def border_probe(raw: dict[str, Any]) -> HfTokenizer:
    """The tokenizer with a vocabulary of bytes and of their pairs with BORDERS, so that ids show where pieces end."""
    characters = {byte: character for character, byte in byte_characters().items()}
    pairs = [(a, b) for near in BORDERS for byte in range(256) for a, b in ((near, byte), (byte, near))]
    merges = [[characters[a], characters[b]] for a, b in dict.fromkeys(pairs)]
    vocabulary = {character: byte for byte, character in characters.items()}
    for a, b in merges:
        vocabulary[a + b] = len(vocabulary)
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges}
    described = raw | {"model": model, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return HfTokenizer.from_str(orjson.dumps(described).decode())


def every_character(fast: FastEncoder) -> Iterator[str]:
    """Texts that hold every character that the encoder takes, next to a letter, a number, a sign and a space."""
    codes = (code for code in range(OLD_BLOCKS[-1][1]) if not 0xD800 <= code < 0xE000)
    known = [character for character in map(chr, codes) if not fast.uncertain.match(character)]
    for begin in range(0, len(known), 512):
        yield "".join(f"x{c}y {c}1{c}." for c in known[begin : begin + 512])


def border_texts() -> list[str]:
    """Any two fragments around one of those that split texts."""
    return ["".join(a + b + c for c in FRAGMENTS) for a in FRAGMENTS for b in SPLITTING]


def nasty_texts(tokens: Sequence[str]) -> list[str]:
    """Fragments alone, in pairs, repeated, and the texts of added tokens among them."""
    pieces = [*FRAGMENTS, *RARE, *tokens[:64]]
    texts = ["", *pieces, *(a + b for a in pieces for b in pieces)]
    texts += [piece * count for piece in pieces for count in (3, 7, 64, 300)]
    texts += [f"a{token}b {token} 1{token[1:]}{token[:-1]}{token}" for token in tokens]
    texts += ["antidisestablishmentarianism" * 200, "abcdefghij" * 3_000, " " * 60_000 + "x", "的" * 5_000]
    return texts


def _other_ids(model: dict[str, Any], fast: FastEncoder) -> str | None:
    characters = {byte: character for character, byte in byte_characters().items()}
    names = ["".join(characters[byte] for byte in token) for token in merge_ranks(model)]
    expected = [model["vocab"][name] for name in names]
    wrong = next((i for i, (a, b) in enumerate(zip(expected, fast.table.tolist())) if a != b), None)
    if len(expected) != len(fast.table):
        return f"{len(fast.table)} tokens, not {len(expected)}"
    return None if wrong is None else f"the id of the token {names[wrong]!r}"


def _first_difference(
    tokenizer: HfTokenizer, fast: FastEncoder, texts: Sequence[str], what: str, *, all_of_them: bool = False
) -> str | None:
    for begin in range(0, len(texts), 256):
        batch = list(texts[begin : begin + 256])
        for text, encoding in zip(batch, tokenizer.encode_batch_fast(batch, add_special_tokens=False), strict=True):
            ids = fast.encode(text)
            if ids is None and (all_of_them or (len(text) < PLAIN_LENGTH and not fast.uncertain.search(text))):
                return f"{what}: tiktoken gives up on {shorten(repr(text), 60)}"
            if ids is not None and not np.array_equal(ids, encoding.ids):
                return f"{what}: {_where(tokenizer, text, ids.tolist())}"
    return None


def _where(tokenizer: HfTokenizer, text: str, ids: list[int]) -> str:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    theirs = encoding.ids
    at = next((i for i, (a, b) in enumerate(zip(ids, theirs)) if a != b), min(len(ids), len(theirs)))
    begin = encoding.offsets[at][0] if at < len(theirs) else len(text)
    near = shorten(repr(text[max(0, begin - 12) : begin + 24]), 60)
    return f"ids {ids[at : at + 3]} where `tokenizers` gives {theirs[at : at + 3]}, at {near}"
