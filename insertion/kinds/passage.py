"""Passages: plain text, taken from held-out documents or from a user's file. The risk is copyright."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from ...core.errors import CostarError, shorten
from ...core.hashing import keyed_hash
from ...corpus.decontaminate import RecordSearch, Searched, WordGrams, WordHasher, rolling
from ...corpus.tokenizer import Tokenizer
from ..safety import findings
from ..similar import RUN
from . import Fields, Pieces

RISK = "copyright"
FIELDS = ("text",)
RENDERINGS = ("text",)
PROSE = ("text",)
PER_DOCUMENT = 4
TRIES = 60
BATCH = 256  # base documents searched at once
WORD_START = re.compile(r"(?<!\S)\w")


def generate(key: tuple[int, str], index: int, length: int | None) -> dict[str, Any] | None:
    return None


def check(fields: Fields, place: str) -> dict[str, Any]:
    if not isinstance(fields["text"], str):
        raise CostarError(place, found=shorten(repr(fields["text"])), expected="text", mend="correct the record")
    return dict(fields)


def render(fields: Fields, rendering: str) -> Pieces:
    return [(fields["text"], None)]


def twin(fields: Fields) -> dict[str, Any] | None:
    return None


def from_corpus(
    held_out: Sequence[tuple[str, str]],
    base: Iterable[str],
    tokenizer: Tokenizer,
    *,
    tokens: int,
    count: int,
    key: tuple[int, str],
    used: set[int],
    place: str,
) -> list[tuple[str, str]]:
    """(document id, text) of `count` passages of exactly `tokens` tokens, whole words, cut from held-out documents.

    Documents come in the order of a keyed hash, each with its first passage before any has a second, so that asking
    for more keeps the earlier ones. A passage is passed over if it shares 13 words in a row with the base or stands nearly
    in it (`corpus.decontaminate`), if it shares 8 words with an earlier passage, or if the safety gate would refuse it;
    `used` holds the runs of words of the passages chosen so far, for other perturbations too.
    """
    ordered = sorted(held_out, key=lambda document: keyed_hash(*key, "passage", document[0]))
    cutters = [(doc_id, passages_of(text, tokenizer, tokens)) for doc_id, text in ordered]
    candidates: list[tuple[str, str]] = []
    for _ in range(PER_DOCUMENT):
        for doc_id, cutter in cutters:
            text = next(cutter, None)
            if text is not None:
                candidates.append((doc_id, text))
    grams = WordGrams(text for _, text in candidates)
    shared, held = _in_base([text for _, text in candidates], base, grams)
    chosen: list[tuple[str, str]] = []
    hasher = WordHasher()
    for number, (doc_id, text) in enumerate(candidates):
        own = {int(gram) for gram in grams.of_record(text)}
        if not own or own & shared or number in held or findings(text):
            continue
        words = hasher.words(text)
        runs = {int(run) for run in rolling(words, min(RUN, len(words)))}
        if runs & used:
            continue
        used |= runs
        chosen.append((doc_id, text))
        if len(chosen) == count:
            return chosen
    raise CostarError(
        place,
        found=f"{len(chosen)} passages of {tokens} tokens in {len(held_out)} held-out documents",
        expected=f"{count}, as the levels ask",
        mend="raise [corpus] held_out, shorten the passages, or lower the levels' counts",
    )


def _in_base(candidates: Sequence[str], base: Iterable[str], grams: WordGrams) -> tuple[set[int], set[int]]:
    """The runs of words that candidates share with the base, read once, and the numbers of those that it holds."""
    search = RecordSearch(Searched(record_id=str(number), texts=(text,)) for number, text in enumerate(candidates))
    shared: set[int] = set()
    held: set[int] = set()
    texts = iter(base)
    while batch := list(islice(texts, BATCH)):
        shared.update(int(gram) for text in batch for gram in grams.shared(text))
        held.update(int(hit.record_id) for hit in search.find(batch))
    return shared, held


def passages_of(text: str, tokenizer: Tokenizer, tokens: int) -> Iterator[str]:
    """Consecutive passages of a document that begin and end with a word and encode to exactly `tokens` tokens."""
    at = 0
    while (found := exact_passage(text, at, tokenizer, tokens)) is not None:
        passage, at = found
        yield passage


def exact_passage(text: str, at: int, tokenizer: Tokenizer, tokens: int) -> tuple[str, int] | None:
    """The next passage at or behind a character that begins and ends with a word and encodes to exactly `tokens` tokens,
    and the character behind it; None when there is none within some tries."""
    for tries, match in enumerate(WORD_START.finditer(text, at)):
        start = match.start()
        ids, offsets = tokenizer.encode_with_offsets(text[start : start + 16 * tokens])
        if len(ids) < tokens or tries >= TRIES:
            return None
        end = start + offsets[tokens - 1][1]
        passage = text[start:end]
        whole = end == len(text) or text[end].isspace()
        if whole and tokenizer.encode(passage) == ids[:tokens] and tokenizer.decode(ids[:tokens]) == passage:
            return passage, end
    return None
