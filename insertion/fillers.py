"""What a filler arm reads in the places of records: held-out text (`base`), or fresh records of the same kind (`kin`).

Every filler has exactly as many tokens as the copy whose place it takes, so that the arm changes the same tokens as the
one it is compared with. It is used once in its arm, and no record holds its text. The fillers of an arm and draw depend on
that arm alone.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..core.design import ArmDesign, PerturbationDesign, Suite
from ..core.errors import CostarError
from ..core.hashing import keyed_hash
from ..core.workspace import Workspace
from ..corpus.decontaminate import WordGrams, WordHasher
from ..corpus.reading import documents_of, open_tokenizer
from ..corpus.tokenizer import Tokenizer
from ..manifests.tables import FILLERS
from .kinds import Kind, Pieces, load_kind, text_of
from .kinds.passage import exact_passage
from .origins import Record, unused_records
from .records import length_stratum, record_row, refuse_unsafe, rendering_row
from .renderings import base_name
from .rewordings import pieces_of
from .safety import findings

TRIES = 400  # fresh records made for each one that is needed, before a length counts as not to be had
Row = dict[str, Any]


class FillerShelf:
    """What the fillers of all arms are made from, and the fillers that were made."""

    def __init__(self, suite: Suite, workspace: Workspace, folders: Sequence[Path], records: pa.Table):
        self.suite, self.workspace, self.folders, self.records = suite, workspace, folders, records
        self.hasher = WordHasher()
        self._made: list[Row] = []

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return open_tokenizer(self.suite.corpus, self.workspace.corpus)

    @cached_property
    def held_out(self) -> list[tuple[str, str]]:
        """(id, text) of the held-out documents, in the order of a keyed hash."""
        pairs = documents_of(self.workspace.corpus, "held_out")
        return sorted(pairs, key=lambda document: keyed_hash(self.suite.seed, "filler", document[0]))

    @cached_property
    def grams(self) -> WordGrams:
        """Runs of words of the records: held-out text that shares one is passed over."""
        return WordGrams(self.records.column("text").to_pylist())

    @cached_property
    def texts(self) -> frozenset[bytes]:
        """The records' texts as words."""
        return frozenset(self.words(text) for text in self.records.column("text").to_pylist())

    def words(self, text: str) -> bytes:
        return self.hasher.words(text).tobytes() or text.encode()

    def kin(self) -> list[tuple[str, list[int]]]:
        """(id, token ids) of the fresh records that were made so far."""
        return [(row["record_id"], row["token_ids"]) for row in self._made if "/kin-" in row["record_id"]]

    def fill(self, arm: ArmDesign, draw: int, exposures: pa.Table) -> pa.Table:
        """The exposures of an arm with fillers instead of records: slots and spans stay, each filler is there once.

        Raises:
            CostarError: not enough held-out text or fresh records of the lengths that are needed.
        """
        names = (self.records.column(name).to_pylist() for name in ("record_id", "perturbation"))
        perturbation = dict(zip(*names, strict=True))
        columns = (exposures.column(name).to_pylist() for name in ("record_id", "rendering", "length", "copy"))
        rows = list(zip(*columns, strict=True))
        designs = self.suite.perturbations
        order = sorted(range(len(rows)), key=lambda i: (designs[perturbation[rows[i][0]]].ordinal, rows[i]))
        maker = _Maker(self, arm, [(perturbation[r], base_name(name)) for r, name, _, _ in rows])
        chosen: list[Row] = [{}] * len(rows)
        for number, i in enumerate(order):
            record_id, rendering, length, _ = rows[i]
            name = perturbation[record_id]
            own_id = f"{name}/{arm.filler}-{arm.name}-d{draw}-{number:04d}"
            chosen[i] = maker.make(name, base_name(rendering), length) | {"record_id": own_id, "cluster_id": own_id}
        self._made += [chosen[i] for i in order]
        replaced = {
            "record_id": pa.array([row["record_id"] for row in chosen], pa.string()),
            "rendering": pa.array([row["rendering"] for row in chosen], pa.string()),
            "copy": pa.array(np.zeros(len(rows), np.int32)),
        }
        for name, column in replaced.items():
            exposures = exposures.set_column(exposures.schema.get_field_index(name), name, column)
        return exposures

    def table(self) -> pa.Table:
        """Every filler that was made, as records with their one rendering."""
        return pa.table({name: [row[name] for row in self._made] for name in FILLERS.names}, schema=FILLERS)


@dataclass
class _Fresh:
    """A fresh record by rendering; it may wait under several lengths, and is used once."""

    rows: dict[str, Row]
    used: bool = False


class _Maker:
    """Makes the fillers of one arm and draw, one after the other."""

    def __init__(self, shelf: FillerShelf, arm: ArmDesign, asked: Sequence[tuple[str, str]]):
        self.shelf, self.arm = shelf, arm
        self._renderings: dict[str, list[str]] = defaultdict(list)
        for name, rendering in sorted(set(asked)):
            self._renderings[name].append(rendering)
        self._wanted = len(asked)
        self._at = [0] * len(shelf.held_out)
        self._next = 0
        self._used: set[bytes] = set()
        self._sources: dict[str, Iterator[_Fresh]] = {}
        self._spare: dict[tuple[str, str, int], deque[_Fresh]] = defaultdict(deque)
        self._made = 0

    def make(self, name: str, rendering: str, tokens: int) -> Row:
        """A filler for a copy of a perturbation, written in a rendering of so many tokens."""
        design = self.shelf.suite.perturbations[name]
        kin = self.arm.filler == "kin" and design.origin != "corpus"
        row = self._kin(design, rendering, tokens) if kin else self._cut(design, rendering, tokens)
        if row is None:
            raise CostarError(
                f"[arm.{self.arm.name}] filler",
                found=f"{self._made} {'fresh records' if kin else 'held-out texts'}, and none more of {tokens} tokens",
                expected=f"{self._wanted}, one for each copy, of its length",
                mend='give more records than the levels ask, or filler = "base"'
                if kin
                else "raise [corpus] held_out, or lower the levels",
            )
        self._made += 1
        return row

    def _cut(self, design: PerturbationDesign, rendering: str, tokens: int) -> Row | None:
        """Held-out text of whole words, cut from the documents in turn."""
        documents = self.shelf.held_out
        for _ in range(len(documents)):
            number, self._next = self._next, (self._next + 1) % len(documents)
            doc_id, text = documents[number]
            while (found := exact_passage(text, self._at[number], self.shelf.tokenizer, tokens)) is not None:
                passage, self._at[number] = found
                if not len(self.shelf.grams.shared(passage)) and not findings(passage):
                    fields, source = {"text": passage}, f"corpus:{doc_id}"
                    record = Record(
                        record_id="", role="reserve", cluster="", fields=fields, source=source, place=doc_id
                    )
                    return self._row(record, design, rendering, [(passage, None)])
        return None

    def _kin(self, design: PerturbationDesign, rendering: str, tokens: int) -> Row | None:
        """A fresh record whose rendering has the tokens that are needed."""
        spare = self._spare[(design.name, rendering, tokens)]
        if design.name not in self._sources:
            self._sources[design.name] = self._fresh(design)
        for _ in range(TRIES * self._wanted):
            while spare:
                fresh = spare.popleft()
                if not fresh.used:
                    fresh.used = True
                    return fresh.rows[rendering]
            found = next(self._sources[design.name], None)
            if found is None:
                return None
            for name, row in found.rows.items():
                self._spare[(design.name, name, row["n_tokens"])].append(found)
        return None

    def _fresh(self, design: PerturbationDesign) -> Iterator[_Fresh]:
        """Records of a perturbation that the suite does not use, in every rendering that the arm needs."""
        kind: Kind = load_kind(design.kind, place=f"[perturbation.{design.name}] kind")
        for record in unused_records(self.shelf.suite, design, kind, self.shelf.folders, self.shelf.tokenizer):
            canonical = self.shelf.words(text_of(kind.render(record.fields, kind.RENDERINGS[0])))
            if canonical in self.shelf.texts or canonical in self._used:
                continue
            self._used.add(canonical)
            pieces = {name: pieces_of(record.fields, name, design, kind) for name in self._renderings[design.name]}
            refuse_unsafe(record, design, [text_of(each) for each in pieces.values()])
            yield _Fresh({name: self._row(_reserve(record), design, name, each) for name, each in pieces.items()})

    def _row(self, record: Record, design: PerturbationDesign, rendering: str, pieces: Pieces) -> Row:
        written = rendering_row(record, rendering, pieces, self.shelf.tokenizer)
        risk = load_kind(design.kind, place=design.name).RISK
        return record_row(record, design, risk, length_stratum(written["n_tokens"]), written) | written


def _reserve(record: Record) -> Record:
    """A record that only takes another's place: its id and cluster come when it is used."""
    return replace(record, record_id="", role="reserve", cluster="")
