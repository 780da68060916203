"""What a filler arm reads in the places of records: held-out text (`base`), or fresh records of the same kind (`kin`).

Every filler has exactly as many tokens as the copy whose place it takes, so that the arm changes the same tokens as the
one it is compared with, and is used once in an arm.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..core.design import ArmDesign, PerturbationDesign, Suite
from ..core.errors import CostarError
from ..core.hashing import canonical_json, keyed_hash
from ..core.workspace import Workspace
from ..corpus.build import base_documents, open_tokenizer
from ..corpus.decontaminate import WordGrams
from ..corpus.tokenizer import Tokenizer
from ..manifests.tables import FILLERS
from .kinds import Kind, load_kind, text_of
from .kinds.passage import exact_passage
from .origins import Record, unused_records
from .records import length_stratum, token_spans
from .renderings import base_name

TRIES = 400  # fresh records made for each one that is needed, before a length counts as not to be had
Need = tuple[str, str, str, int]  # filler, perturbation, rendering, tokens


class FillerShelf:
    """Fillers by what they are for, made when an arm first needs them and used again by other arms."""

    def __init__(self, suite: Suite, workspace: Workspace, folders: Sequence[Path], records: pa.Table):
        self.suite, self.workspace, self.folders = suite, workspace, folders
        self._records = records
        self._made: dict[Need, list[dict[str, Any]]] = defaultdict(list)
        self._sources: dict[tuple[str, str, str], Iterator[dict[str, Any]]] = {}
        self._spare: dict[Need, list[dict[str, Any]]] = defaultdict(list)
        self._cutter: _Cutter | None = None
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            self._tokenizer = open_tokenizer(self.suite.corpus, self.workspace.corpus)
        return self._tokenizer

    def fill(self, arm: ArmDesign, exposures: pa.Table) -> pa.Table:
        """The exposures of an arm with fillers instead of records: slots and spans stay, each filler is there once."""
        perturbation = dict(
            zip(
                self._records.column("record_id").to_pylist(),
                self._records.column("perturbation").to_pylist(),
                strict=True,
            )
        )
        columns = (exposures.column(name).to_pylist() for name in ("record_id", "rendering", "length", "copy"))
        rows = list(zip(*columns, strict=True))
        needs = [(arm.filler, perturbation[r], base_name(name), length) for r, name, length, _ in rows]
        for need, count in sorted(Counter(needs).items()):
            self._provide(need, count)
        used: Counter[Need] = Counter()
        chosen: list[dict[str, Any]] = [{}] * len(rows)
        for i in sorted(range(len(rows)), key=lambda i: (rows[i][0], rows[i][3])):
            chosen[i] = self._made[needs[i]][used[needs[i]]]
            used[needs[i]] += 1
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
        rows = [row for need in sorted(self._made) for row in self._made[need]]
        return pa.table({name: [row[name] for row in rows] for name in FILLERS.names}, schema=FILLERS)

    def _provide(self, need: Need, count: int) -> None:
        while len(self._made[need]) < count:
            filler, name, rendering, tokens = need
            design = self.suite.perturbations[name]
            row = self._cut(need, count) if filler == "base" or design.origin == "corpus" else self._kin(need, count)
            number = len(self._made[need])
            own_id = f"{name}/{filler}-{tokens}-{number:04d}" + (f"-{rendering}" if filler == "kin" else "")
            named = {"record_id": own_id, "cluster_id": own_id}
            self._made[need].append(row | named)

    def _cut(self, need: Need, count: int) -> dict[str, Any]:
        """Held-out text that no record holds and no filler before it."""
        filler, name, rendering, tokens = need
        if self._cutter is None:
            texts = self._records.column("text").to_pylist()
            self._cutter = _Cutter(self.workspace.corpus, self.tokenizer, texts, self.suite.seed)
        found = self._cutter.next(tokens)
        if found is None:
            raise CostarError(
                f"filler {filler!r} of [perturbation.{name}]",
                found=f"{len(self._made[need])} held-out texts of {tokens} tokens",
                expected=f"{count}, one for each copy",
                mend="raise [corpus] held_out, or lower the levels",
            )
        doc_id, text = found
        kind = load_kind("passage", place=name)
        record = Record(
            record_id="", role="reserve", cluster="", fields={"text": text}, source=f"corpus:{doc_id}", place=doc_id
        )
        risk = load_kind(self.suite.perturbations[name].kind, place=name).RISK
        return self._row(record, self.suite.perturbations[name], kind, "text") | {"risk": risk, "rendering": rendering}

    def _kin(self, need: Need, count: int) -> dict[str, Any]:
        """A fresh record of the same perturbation whose rendering has the tokens that are needed."""
        _, name, rendering, tokens = need
        spare = self._spare[need]
        source = self._sources.setdefault((name, rendering, "kin"), self._fresh(name, rendering))
        for _ in range(TRIES * count):
            if spare:
                break
            row = next(source, None)
            if row is None:
                break
            self._spare[("kin", name, rendering, row["n_tokens"])].append(row)
        if not spare:
            raise CostarError(
                f"filler 'kin' of [perturbation.{name}]",
                found=f"{len(self._made[need])} fresh records of {tokens} tokens",
                expected=f"{count}, one for each copy of that length",
                mend='give more records than the levels ask, lower the levels, or use filler = "base"',
            )
        return spare.pop(0)

    def _fresh(self, name: str, rendering: str) -> Iterator[dict[str, Any]]:
        design = self.suite.perturbations[name]
        kind = load_kind(design.kind, place=f"[perturbation.{name}] kind")
        for record in unused_records(self.suite, design, kind, self.folders):
            yield self._row(record, design, kind, rendering)

    def _row(self, record: Record, design: PerturbationDesign, kind: Kind, rendering: str) -> dict[str, Any]:
        pieces = kind.render(record.fields, rendering)
        text = text_of(pieces)
        ids = self.tokenizer.encode_record(text, record.place)
        return {
            "record_id": "",
            "perturbation": design.name,
            "kind": design.kind,
            "risk": kind.RISK,
            "role": "reserve",
            "cluster_id": "",
            "stratum": length_stratum(len(ids)),
            "text": text,
            "fields": canonical_json(record.fields),
            "n_tokens": len(ids),
            "n_bytes": len(text.encode()),
            "licence": design.licence,
            "source": record.source,
            "rendering": rendering,
            "spans": token_spans(pieces, self.tokenizer, record.place),
            "token_ids": ids,
        }


class _Cutter:
    """Cuts held-out documents, in the order of a keyed hash, into texts of wanted lengths, each part used once."""

    def __init__(self, corpus: Path, tokenizer: Tokenizer, records: Sequence[str], seed: int):
        held_out = base_documents(corpus, "held_out")
        pairs = zip(held_out.column("doc_id").to_pylist(), held_out.column("text").to_pylist(), strict=True)
        self.documents = sorted(pairs, key=lambda document: keyed_hash(seed, "filler", document[0]))
        self.tokenizer = tokenizer
        self.records = WordGrams(records)
        self._at = [0] * len(self.documents)
        self._next = 0

    def next(self, tokens: int) -> tuple[str, str] | None:
        """(document id, text) of exactly `tokens` tokens, whole words; None when the documents are used up."""
        for _ in range(len(self.documents)):
            number, self._next = self._next, (self._next + 1) % len(self.documents)
            doc_id, text = self.documents[number]
            while (found := exact_passage(text, self._at[number], self.tokenizer, tokens)) is not None:
                passage, self._at[number] = found
                if not len(self.records.shared(passage)):
                    return doc_id, passage
        return None
