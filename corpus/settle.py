"""What each document is used for: dropped as a repetition, left out of a mixture, held out, for validation, or base."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from ..core.design import CorpusDesign, SourceDesign
from ..core.errors import CostarError
from ..core.hashing import keyed_unit
from ..core.workspace import write_json
from ..manifests.tables import DOCUMENTS
from .documents import units_of
from .duplicates import Runner, near_duplicates, repeated
from .parts import checked, part_path, read_batches, write_array, writing_part


def held_out(seed: int, doc_id: str, share: float) -> bool:
    """Whether a document is kept out of the base: a keyed hash and a fixed share, so other records change nothing."""
    return keyed_unit(seed, "held-out", doc_id) < share


def fresh_documents(folder: Path, rank: int) -> Iterator[tuple[dict[str, Any], str, str]]:
    """(row, text, reason) of a task's documents, without what stood earlier: whole documents, or their lines."""
    seen = np.load(checked(part_path(folder, "repeated", rank, ".npy")), mmap_mode="r")
    at = 0
    for batch in read_batches(part_path(folder, "read", rank, ".parquet")):
        for row in batch.to_pylist():
            text, reason = row["text"], row["reason"]
            if not reason:
                units = units_of(text, by_line=row["by_line"])
                kept = [unit for unit, old in zip(units, seen[at : at + len(units)], strict=True) if not old]
                at += len(units)
                text = "\n".join(kept)
                reason = "" if text.strip() else "duplicate"
            yield row, text, reason


class FreshReader(PipelineStep):
    """The documents that are no exact repetition."""

    name = "fresh documents"
    type = "READER"

    def __init__(self, folder: str):
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for row, text, reason in fresh_documents(Path(self.folder), rank):
            if not reason:
                yield Document(text=text, id=row["doc_id"])


def _near(folder: Path, rank: int) -> frozenset[int]:
    """The places, among a task's documents that are no exact repetition, of near copies."""
    return frozenset(np.load(checked(part_path(folder, "near", rank, ".npy"))).tolist())


class Weigher(PipelineStep):
    """Writes how many characters of each source a task has to choose from."""

    name = "weigh"
    type = "WRITER"

    def __init__(self, folder: str):
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        folder, sizes = Path(self.folder), Counter[str]()
        near = _near(folder, rank)
        fresh = ((row, text) for row, text, reason in fresh_documents(folder, rank) if not reason)
        for place, (row, text) in enumerate(fresh):
            if place not in near:
                sizes[row["source"]] += len(text)
        write_json(part_path(folder, "weights", rank, ".json"), sizes)


class Settler(PipelineStep):
    """Writes a task's documents with their use. `kept` is the share of each part of a mixture that is taken."""

    name = "settle"
    type = "WRITER"

    def __init__(self, folder: str, design: CorpusDesign, seed: int, kept: Mapping[str, float]):
        super().__init__()
        self.folder, self.design, self.seed, self.kept = folder, design, seed, dict(kept)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        folder = Path(self.folder)
        near = _near(folder, rank)
        place = 0
        with writing_part(part_path(folder, "documents", rank, ".parquet"), DOCUMENTS) as part:
            for row, text, why in fresh_documents(folder, rank):
                reason = why
                if not why:
                    reason = "near-duplicate" if place in near else ""
                    place += 1
                use = "dropped" if reason else self._use(row["doc_id"], row["source"])
                if use == "dropped":
                    reason = reason or "not sampled"
                    part.add(64, row["doc_id"], row["source"], "", len(row["text"].encode()), use, reason)
                else:
                    size = len(text.encode())
                    part.add(size, row["doc_id"], row["source"], text, size, use, "")

    def _use(self, doc_id: str, source: str) -> str:
        if keyed_unit(self.seed, "mixture", doc_id) >= self.kept.get(source, 1.0):
            return "dropped"
        if held_out(self.seed, doc_id, float(self.design.held_out)):
            return "held_out"
        rest = self.design.validation / (1 - self.design.held_out)  # of those that are not held out
        return "validation" if keyed_unit(self.seed, "validation", doc_id) < rest else "base"


def settle(design: CorpusDesign, seed: int, folder: Path, tasks: int, run: Runner) -> list[Path]:
    """From the parts that `ReadWriter` left in a folder to parts of `documents.parquet`, in order."""
    ranks = range(tasks)
    _mark_repeated(folder, ranks)
    near = [np.zeros(0, np.int64) for _ in ranks]
    if design.deduplicate == "minhash":
        near = near_duplicates(FreshReader(str(folder)), tasks=tasks, folder=folder / "minhash", run=run)
    for rank, places in zip(ranks, near, strict=True):
        write_array(part_path(folder, "near", rank, ".npy"), places)
    shared = any(source.share is not None for source in design.sources)
    kept: dict[str, float] = {}
    if shared:
        run([Weigher(str(folder))], tasks, "weigh")
        weights = [json.loads(part_path(folder, "weights", rank, ".json").read_text("utf-8")) for rank in ranks]
        sizes: Counter[str] = sum(map(Counter, weights), Counter())
        for part in (source.name for source in design.sources if not sizes[source.name]):
            raise CostarError(
                f"[corpus.mixture.{part}]",
                found="no text left of it",
                expected="some: all of it is empty, filtered, or a repetition of earlier parts",
                mend="look at its files, or remove the part",
            )
        kept = kept_shares(design.sources, sizes)
    run([Settler(str(folder), design, seed, kept)], tasks, "settle")
    for rank in ranks:
        part_path(folder, "read", rank, ".parquet").unlink(missing_ok=True)  # as large as the text, and not read again
    return [part_path(folder, "documents", rank, ".parquet") for rank in ranks]


def _mark_repeated(folder: Path, ranks: range) -> None:
    paths = [part_path(folder, "digests", rank, ".npy") for rank in ranks]
    for rank, found in zip(ranks, repeated([checked(path) for path in paths]), strict=True):
        write_array(part_path(folder, "repeated", rank, ".npy"), found)


def kept_shares(sources: Sequence[SourceDesign], sizes: Mapping[str, int]) -> dict[str, float]:
    """The share of each part of a mixture to take, so that the parts have their shares and nothing is taken twice.

    The scarcest part is taken whole, and sets the size of the others.
    """
    shares = {each.name: Fraction(each.share) for each in sources if each.share is not None}
    if not shares:
        return {}
    whole = min(Fraction(sizes.get(name, 0)) / share for name, share in shares.items())
    return {name: float(whole * share / sizes[name]) if sizes.get(name) else 1.0 for name, share in shares.items()}
