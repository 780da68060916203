"""Finding the documents that hold a record: as token ids, as words, or nearly.

Three ways, from the strongest to the weakest:

- `tokens`: `TOKENS` ids of a record in a row; a record of `FEWEST_TOKENS` to `TOKENS` ids as a whole. The first and the
  last id are left out where enough remain, because ids at the ends of a text merge with what stands around it.
- `words`: `N` words in a row; a record of `LEAST` to `N` words as a whole. Words are those of `words.words_of`.
- `near`: at most 3 edits for 10 words (`near`), in one of the stretches of at least 64 words that a long text is cut
  into, or in a text of at least 9 words; below 13 words at most 1 edit for 5 words, and no name or number changed.

Runs of words or ids that more than `crowd` records hold are phrases of a template: they count only where a whole text
consists of them and is there as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import U64
from .grams import DOCUMENT_END, TEXT_END, GramIndex, laid_out
from .near import Stretches
from .words import I64, WordHasher, Words, rolling, words_of

__all__ = ["Hit", "RecordSearch", "Searched", "WordGrams", "WordHasher", "rolling"]

N, LEAST, WORD_RUN = 13, 8, 4  # words
TOKENS, FEWEST_TOKENS, TOKEN_RUN = 32, 10, 10  # ids
CROWD = 20  # records that may hold a run before it counts as a phrase of a template
BLOCK = 1 << 20  # characters or ids searched at once
T = TypeVar("T")
Reason = Literal["tokens", "words", "near"]
STRENGTH: dict[Reason, int] = {"near": 0, "words": 1, "tokens": 2}


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A record as it is searched: its texts (renderings, long fields) and their ids, with and without a leading space."""

    record_id: str
    texts: tuple[str, ...] = ()
    ids: tuple[Sequence[int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A document of a batch that holds a record.

    `document` is its place in the batch; `match` the ids or words in a row (`tokens`, `words`) or in order (`near`);
    `share` what they are of the ids or words of that text of the record.
    """

    document: int
    record_id: str
    reason: Reason
    match: int
    share: float


_Text = tuple[int, U64, NDArray[np.uint8], list[int]]  # first record, values, sorts of the words, all records


class RecordSearch:
    """Finds documents that hold one of the records; made once and given to every worker."""

    def __init__(self, records: Iterable[Searched], *, crowd: int = CROWD):
        texts: dict[bytes, _Text] = {}
        ids: dict[bytes, _Text] = {}
        self.record_ids: list[str] = []
        no_sorts = np.zeros(0, np.uint8)
        for block in _blocks(records, lambda record: sum(map(len, record.texts)) + 1):
            split = words_of([text for record in block for text in record.texts], sorts=True)
            at = text_number = 0
            for record in block:
                number = len(self.record_ids)
                self.record_ids.append(record.record_id)
                for _ in record.texts:
                    end = at + int(split.counts[text_number])
                    _add(texts, split.hashes[at:end], split.sorts[at:end], number)
                    at, text_number = end, text_number + 1
                for each in record.ids:
                    inner = each[1:-1] if len(each) - 2 >= FEWEST_TOKENS else each
                    _add(ids, _spaced(np.asarray(inner)), no_sorts, number)
        self._texts = _Texts(texts, size=WORD_RUN, least=LEAST, run=N, crowd=crowd)
        del texts
        self._ids = _Texts(ids, size=TOKEN_RUN, least=FEWEST_TOKENS, run=TOKENS, crowd=crowd)
        index = self._texts.index
        sorts = laid_out(self._texts.sorts.astype(np.uint64), self._texts.counts, np.uint64(0))[0].astype(np.uint8)
        self._stretches = Stretches(
            index.values,
            self._texts.firsts,
            self._texts.counts,
            ~index.common,
            crowded=index.crowded,
            sorts=sorts,
            size=WORD_RUN,
        )

    def find(
        self,
        texts: Sequence[str] = (),
        ids: NDArray[np.integer[Any]] | None = None,
        lengths: NDArray[np.integer[Any]] | None = None,
    ) -> list[Hit]:
        """Every record that documents hold, once a document with its strongest reason, in the order of documents.

        `texts` [documents]; `ids` [sum of lengths], the documents' token ids one behind the other, and `lengths`
        [documents]. Either may be absent.

        Raises:
            ValueError: texts and lengths of different numbers of documents, or ids of another length than their sum.
        """
        best: dict[tuple[int, int], Hit] = {}
        if ids is not None and lengths is not None:
            if int(np.sum(lengths)) != len(ids) or (len(texts) and len(texts) != len(lengths)):
                raise ValueError(
                    f"{len(texts)} texts, {len(lengths)} lengths of {int(np.sum(lengths))}, {len(ids)} ids"
                )
            document, firsts = laid_out(_spaced(ids), np.asarray(lengths, np.int64), DOCUMENT_END)
            self._find_runs(best, self._ids, document, firsts, 0, "tokens")
        done = 0
        for block in _blocks(texts, len):
            split = words_of(block)
            document, firsts = laid_out(split.hashes, split.counts, DOCUMENT_END)
            hits = self._find_runs(best, self._texts, document, firsts, done, "words")
            self._find_near(best, document, firsts, split, done, hits)
            done += len(block)
        return [best[key] for key in sorted(best)]

    def _find_runs(
        self, best: dict[tuple[int, int], Hit], texts: _Texts, document: U64, firsts: I64, done: int, reason: Reason
    ) -> tuple[I64, I64]:
        """Note the records of which a long enough run stands in the documents; every hit, sorted by diagonal."""
        at, places = texts.index.hits(document)
        order = np.argsort(at - places, kind="stable")
        at, places = at[order], places[order]
        starts, begins, sizes = texts.index.matches(document, at, places)
        of = np.searchsorted(texts.firsts, begins, side="right") - 1
        enough = np.flatnonzero(sizes >= texts.need[of])
        numbers = np.searchsorted(firsts, starts[enough], side="right") - 1
        for number, text, size in zip(numbers.tolist(), of[enough].tolist(), sizes[enough].tolist(), strict=True):
            self._note(best, done + number, texts.records[text], reason, size, size / int(texts.counts[text]))
        return at, places

    def _find_near(
        self,
        best: dict[tuple[int, int], Hit],
        document: U64,
        firsts: I64,
        split: Words,
        done: int,
        hits: tuple[I64, I64],
    ) -> None:
        """Note the records that stand nearly in the documents, where no stronger reason is known."""
        at, places = hits
        stretches = self._stretches.of(places)
        order = np.argsort(stretches, kind="stable")  # within a stretch still by diagonal
        at, places, stretches = at[order], places[order], stretches[order]
        numbers = np.searchsorted(firsts, at, side="right") - 1
        found: dict[tuple[int, int], dict[int, int]] = {}
        for stretch, number, low, high in self._stretches.candidates(stretches, numbers, at - places):
            text = int(self._stretches.texts[stretch])
            known = found.get((number, text), {})
            if stretch in known or all((done + number, record) in best for record in self._texts.records[text]):
                continue
            begin = int(firsts[number])
            aligned = self._stretches.align(stretch, low, high, document, begin, begin + int(split.counts[number]))
            if aligned:
                found[(number, text)] = known | {stretch: aligned}
        for (number, text), parts in found.items():
            total = sum(parts.values())
            records = self._texts.records[text]
            self._note(best, done + number, records, "near", total, total / int(self._texts.counts[text]))

    def _note(
        self,
        best: dict[tuple[int, int], Hit],
        document: int,
        records: Sequence[int],
        reason: Reason,
        match: int,
        share: float,
    ) -> None:
        """Keep the strongest hit of every record."""
        for record in records:
            old = best.get((document, record))
            if old and (STRENGTH[old.reason], old.match) >= (STRENGTH[reason], match):
                continue
            best[(document, record)] = Hit(
                document=document, record_id=self.record_ids[record], reason=reason, match=match, share=share
            )


class _Texts:
    """Different texts (as words or ids), the records that hold each, and the index of their runs."""

    def __init__(
        self,
        texts: dict[bytes, _Text],
        *,
        size: int,
        least: int,
        run: int,
        crowd: int,
    ):
        found = [each for each in texts.values() if len(each[1]) >= least]
        self.records = [tuple(records) for _, _, _, records in found]
        self.counts = np.array([len(values) for _, values, _, _ in found], np.int64)
        self.sorts = np.concatenate([np.zeros(0, np.uint8), *(sorts for _, _, sorts, _ in found)])
        values = np.concatenate([np.zeros(0, np.uint64), *(values for _, values, _, _ in found)])
        laid, self.firsts = laid_out(values, self.counts, TEXT_END)
        owners = np.array([number for number, _, _, _ in found], np.int64)
        self.index = GramIndex(laid, self.firsts, self.counts, owners, size=size, crowd=crowd)
        self.need = np.where(self.index.common, self.counts, np.minimum(self.counts, run))


class WordGrams:
    """Finds texts that share a run of `N` words with any of the records given, or a shorter record of `LEAST` words."""

    def __init__(self, records: Iterable[str]):
        self._hashed = WordHasher().words
        grams: dict[int, list[U64]] = {}
        for text in records:
            hashes = self._hashed(text)
            size = min(N, len(hashes))
            if size >= LEAST:
                grams.setdefault(size, []).append(rolling(hashes, size))
        self._grams = {size: np.unique(np.concatenate(parts)) for size, parts in grams.items()}

    def shared(self, text: str) -> U64:
        """The hashes of the records' n-grams that occur in a text."""
        hashes = self._hashed(text)
        found = [np.zeros(0, np.uint64)]
        for size, grams in self._grams.items():
            runs = rolling(hashes, size)
            places = np.minimum(np.searchsorted(grams, runs), len(grams) - 1)
            found.append(runs[grams[places] == runs])
        return np.concatenate(found)

    def of_record(self, text: str) -> U64:
        """The n-gram hashes by which a record is searched."""
        hashes = self._hashed(text)
        size = min(N, len(hashes))
        return rolling(hashes, size) if size >= LEAST else np.zeros(0, np.uint64)


def _add(
    known: dict[bytes, _Text],
    values: U64,
    sorts: NDArray[np.uint8],
    record: int,
) -> None:
    """Note a text of a record; equal texts are kept once."""
    records = known.setdefault(hashlib.blake2b(values.tobytes(), digest_size=16).digest(), (record, values, sorts, []))[
        3
    ]
    if not records or records[-1] != record:
        records.append(record)


def _spaced(ids: NDArray[np.integer[Any]]) -> U64:
    """Ids as well-spread 64-bit values, none of them a value that stands between texts."""
    with np.errstate(over="ignore"):
        values = (ids.astype(np.uint64) + np.uint64(3)) * np.uint64(0xD6E8FEB86659FD93)
        values ^= values >> np.uint64(32)
        spread: U64 = values * np.uint64(0xD6E8FEB86659FD93)
    return spread


def _blocks(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Items in lists of about BLOCK characters."""
    block: list[T] = []
    total = 0
    for item in items:
        block.append(item)
        total += size(item)
        if total >= BLOCK:
            yield block
            block, total = [], 0
    if block:
        yield block
