"""Generated text for tests of scale: pseudo-words by Zipf's law in sentences, paragraphs and documents of many lengths.

It behaves as text does under BPE, de-duplication and filters, and says nothing. `megabytes` is how much of it, 10⁶ bytes
each; every megabyte is an item of its own and depends on nothing but the seed and its name. Only integers are
computed with, so any version of numpy and any machine gives the same bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.design import SourceDesign
from ...core.hashing import U64, keyed_hash, mix64, mulhi64
from ..documents import Item, RawDocument

ONE_PARAGRAPH_A_LINE = False
MEGABYTE = 10**6
VOCABULARY = 50_000
SLOTS = 20  # Zipf's law as a table of 2²⁰ words: the rarest of 50,000 still has a slot
WORDS = 240_000  # drawn for a megabyte, which takes about 140,000
SHORTEST, LONGEST = 50, 5_000  # words of a document
MEDIAN, SPREAD = (8 << 16) + 15_000, 85_000  # log₂ of a document's words: mean 8.23, deviation 1.3, times 2¹⁶
ONSETS = "b c d f g h j k l m n p r s t v w bl br ch cl cr dr fl fr gl gr pl pr qu sh sl sp st str th tr"
VOWELS = "a e i o u a e i o e ai ea ee ie oa oo ou"
CODAS = "- - - - - - - - - n r s t l d m n r s t ck nd ng nt st rd ll ss"  # a dash: none
ENDINGS = (" ", ", ", ". ", ".\n")
COMMA, STOP, PARAGRAPH = 1, 2, 3
NEXT_ENDING, CAPITAL = VOCABULARY, VOCABULARY * len(ENDINGS)


@dataclass(frozen=True, kw_only=True)
class _Lexicon:
    """`forms` [2·4·V]: every word with every ending, then capitalized; `sizes` its bytes; `slots` [2²⁰] maps to ranks."""

    forms: NDArray[np.object_]
    sizes: NDArray[np.int64]
    slots: NDArray[np.int64]


def items(source: SourceDesign, folders: Sequence[Path]) -> list[Item]:
    """One item a megabyte; none has a file, so `path` is empty."""
    return [Item(name=f"synthetic:{number:06d}", path="") for number in range(source.megabytes or 0)]


def facts(source: SourceDesign, items: Sequence[Item] = ()) -> dict[str, object]:
    """That the text is generated: `corpus.json` says so."""
    return {"differs": [], "synthetic": True, "text": "pseudo-words by Zipf's law", "megabytes": source.megabytes}


def read(item: Item, source: SourceDesign) -> Iterator[RawDocument]:
    """The documents of one megabyte, the last of them cut where it is full."""
    lexicon = _lexicon()
    key = keyed_hash(source.seed, source.name, item.name)
    ends = _document_ends(key)
    forms = lexicon.slots[_draws(key, "word", WORDS) >> np.uint64(64 - SLOTS)]
    forms += _marks(key, ends)
    full = int(np.searchsorted(np.cumsum(lexicon.sizes[forms]), MEGABYTE))
    pieces = lexicon.forms[forms[: full + 1]].tolist()
    start = 0
    for number, end in enumerate(ends.tolist()):
        if start > full:
            break
        text = "".join(pieces[start:end]).rstrip(" \n")
        yield RawDocument(doc_id=f"{item.name}:{number}", text=text)
        start = end


def _draws(key: int, what: str, count: int) -> U64:
    """`count` uniform uint64 for one use of a key."""
    return mix64(np.arange(count, dtype=np.uint64), keyed_hash(key, what))


def _document_ends(key: int) -> NDArray[np.int64]:
    """Ends of documents, in words: their lengths are log-normal, but for 2^x drawn straight between powers of two."""
    count = WORDS // SHORTEST
    uniform = _draws(key, "document", 3 * count).reshape(3, count)
    parts = np.concatenate([uniform >> np.uint64(48), (uniform >> np.uint64(32)) & np.uint64(0xFFFF)])
    parts = np.concatenate([parts, (uniform >> np.uint64(16)) & np.uint64(0xFFFF), uniform & np.uint64(0xFFFF)])
    normal = parts.sum(axis=0, dtype=np.uint64).astype(np.int64) - 6 * 0xFFFF  # of twelve uniforms: deviation 2¹⁶
    power = np.clip(MEDIAN + (normal * SPREAD >> 16), 0, 16 << 16)
    lengths = ((np.int64(1) << (power >> 16)) * (0x10000 + (power & 0xFFFF))) >> 16
    ends = np.cumsum(np.clip(lengths, SHORTEST, LONGEST))
    return ends[: int(np.searchsorted(ends, WORDS)) + 1].clip(max=WORDS)


def _marks(key: int, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """What to add to the index of each word for its ending and its capital, [WORDS]."""
    sentences = 4 + mulhi64(_draws(key, "sentence", WORDS // 4), 23).astype(np.int64)  # 4 to 26 words
    stops = np.cumsum(sentences) - 1
    stops = stops[stops < WORDS]
    marks = np.where(_draws(key, "comma", WORDS) < np.uint64(2**64 // 14), COMMA * NEXT_ENDING, 0)
    paragraphs = _draws(key, "paragraph", len(stops)) < np.uint64(2**64 // 6)
    marks[stops] = np.where(paragraphs, PARAGRAPH, STOP) * NEXT_ENDING
    marks[ends - 1] = STOP * NEXT_ENDING
    starts = np.concatenate([[0], stops + 1, ends])
    marks[np.unique(starts[starts < WORDS])] += CAPITAL
    return marks


@functools.cache
def _lexicon() -> _Lexicon:
    """The words, the most frequent first; the same for every seed."""
    words = _vocabulary()
    plain = [word + ending for ending in ENDINGS for word in words]
    forms = plain + [form.capitalize() for form in plain]
    weights = np.int64(1 << 40) // np.arange(3, VOCABULARY + 3, dtype=np.int64)
    reach = np.cumsum(weights)
    steps = np.arange(1 << SLOTS, dtype=np.int64) * (int(reach[-1]) >> SLOTS)
    return _Lexicon(
        forms=np.array(forms, dtype=object),
        sizes=np.array([len(form) for form in forms], dtype=np.int64),
        slots=np.searchsorted(reach, steps, side="right").astype(np.int64),
    )


def _vocabulary() -> list[str]:
    """Pronounceable words that differ; frequent ones have fewer syllables."""
    found: dict[str, None] = {}
    count = 4 * VOCABULARY
    picks = [
        [_pick(parts, f"{name} {syllable}", count) for name, parts in (("o", ONSETS), ("v", VOWELS), ("c", CODAS))]
        for syllable in range(4)
    ]
    more = mulhi64(_draws(keyed_hash("synthetic vocabulary"), "syllables", count), 3).tolist()
    for number in range(count):
        rank = len(found)
        syllables = min(
            4, 1 + (rank > 150) * (more[number] > 0) + (rank > 2_000) + (rank > 12_000) * (more[number] > 1)
        )
        word = "".join(part[number] for picked in picks[:syllables] for part in picked)
        found.setdefault(word)
        if len(found) == VOCABULARY:
            break
    return list(found)


def _pick(choice: str, name: str, count: int) -> list[str]:
    parts = [part.strip("-") for part in choice.split()]
    chosen = mulhi64(_draws(keyed_hash("synthetic vocabulary"), name, count), len(parts))
    return [parts[k] for k in chosen.tolist()]
