"""A release folder as graders read it: a pair, its records with their labels, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..core.errors import CostarError
from ..core.hashing import sha256_file
from ..core.parquet import read_table
from ..core.workspace import read_facts
from ..corpus.tokenizer import Tokenizer
from .facts import read_release
from .sealed import LABELS, check_seal

KEYS = ("release_id", "pairs", "withheld", "extraction")
AGAIN = "download the release again; costar verify tells what is damaged"


@dataclass(frozen=True, kw_only=True)
class Released:
    """A pair of a release. `records` are its main records, flat, sorted by id; they have levels where those are known."""

    folder: Path
    facts: Mapping[str, Any]
    pair: Mapping[str, Any]
    records: pa.Table

    @property
    def treated(self) -> str:
        return str(self.pair["treated"])

    @property
    def control(self) -> str:
        return str(self.pair["control"])

    @property
    def is_blind(self) -> bool:
        """Whether the labels are known to the owner alone."""
        return is_withheld(self.facts)

    @property
    def pair_runs(self) -> tuple[str, str]:
        return self.treated, self.control

    def model(self, run: str) -> Path:
        return self.folder / "models" / run

    @cached_property
    def _columns(self) -> dict[str, dict[str, Any]]:
        return {}

    def column(self, name: str) -> Mapping[str, Any]:
        """Record → its value of a column; graders ask for the same ones many times."""
        if name not in self._columns:
            ids, values = (self.records.column(each).to_pylist() for each in ("record_id", name))
            self._columns[name] = dict(zip(ids, values, strict=True))
        return self._columns[name]

    def perturbations(self) -> list[str]:
        return sorted(pc.unique(self.records.column("perturbation")).to_pylist())

    def scored(self, run: str, probe: str, variant: str, metric: str) -> dict[str, float]:
        """Record → what the release says was measured of a run at its last step; empty where it says nothing."""
        path = self.folder / "data" / "scores.parquet"
        if not path.is_file():
            return {}
        table = read_table(path, mend=AGAIN)
        wanted = {"run": run, "probe": probe, "variant": variant, "metric": metric}
        for name, value in wanted.items():
            table = table.filter(pc.equal(table.column(name), value))
        if not len(table):
            return {}
        table = table.filter(pc.equal(table.column("step"), pc.max(table.column("step"))))
        names = self.column("rendering")
        columns = (table.column(name).to_pylist() for name in ("record_id", "rendering", "value"))
        found: dict[str, float] = {}
        for record_id, rendering, value in zip(*columns, strict=True):
            if record_id in names and (rendering == names[record_id] or record_id not in found):
                found[record_id] = value
        return found


def release_facts(folder: Path) -> dict[str, Any]:
    """`release.json` of a release folder, checked.

    Raises:
        CostarError: it is no release, or one of another version.
    """
    if not folder.is_dir():
        raise CostarError(
            "--release", found=f"no folder {folder}", expected="a release folder", mend="correct the path"
        )
    read_release(folder)
    return read_facts(folder / "release.json", KEYS, mend=AGAIN)


def open_pair(folder: Path, facts: Mapping[str, Any], run: str, sealed: Path | None = None) -> Released:
    """A pair of a release by its treated run, with labels: its own, or the sealed ones of a blind release.

    Raises:
        CostarError: no such pair; labels are withheld and no sealed folder is given, or it is another release's.
    """
    pair = next((pair for pair in facts["pairs"] if pair["treated"] == run), None)
    if pair is None:
        known = ", ".join(pair["treated"] for pair in facts["pairs"])
        raise CostarError(
            "submission.json, run", found=run, expected=f"the treated run of a pair: {known}", mend="correct it"
        )
    path = _labelled(folder, facts, sealed)
    table = read_table(path, mend=AGAIN)
    missing = [name for name in LABELS if name not in table.column_names]
    if missing:
        raise CostarError(
            str(path), found=f"no column {', '.join(missing)}", expected="records with labels", mend=AGAIN
        )
    table = table.filter(pc.equal(table.column("run"), run)).sort_by("record_id")
    return Released(folder=folder, facts=facts, pair=pair, records=table)


def is_withheld(facts: Mapping[str, Any]) -> bool:
    """Whether the facts are of a blind release that is not revealed."""
    withheld = facts["withheld"] or {}
    return bool(withheld) and not withheld.get("revealed")


def _labelled(folder: Path, facts: Mapping[str, Any], sealed: Path | None) -> Path:
    """The table of records with their labels."""
    if not is_withheld(facts):
        return folder / "data" / "membership.parquet"
    if sealed is None:
        raise CostarError(
            str(folder),
            found="a blind release: its labels are withheld",
            expected="labels to grade with",
            mend="who owns the release grades with --sealed build/SUITE/sealed; everybody can once it is revealed",
        )
    seal = check_seal(sealed)
    commitment = str(facts["withheld"].get("commitment"))
    if seal["commitment"] != commitment:
        raise CostarError(
            "--sealed",
            found=f"the seal of another release, {seal['commitment'][:16]}…",
            expected=f"that of this one, {commitment[:16]}…",
            mend="name the folder that was written with this release",
        )
    return sealed / "membership.parquet"


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model's folder.

    Raises:
        CostarError: a file is missing or damaged.
    """
    facts = read_facts(folder / "tokenizer_config.json", ["eos_token"], mend=AGAIN)
    return Tokenizer(folder / "tokenizer.json", facts["eos_token"])


def has_pad_behind(folder: Path) -> bool:
    """Whether the last id is that of a pad token behind all others, which is no prediction."""
    tokenizer = open_tokenizer(folder)
    pad = read_facts(folder / "tokenizer_config.json", (), mend=AGAIN).get("pad_token")
    number = tokenizer.inner.token_to_id(pad) if pad else None
    return number == tokenizer.vocab_size - 1 and number != tokenizer.eos_id


def tokenizer_sha256(folder: Path) -> str:
    """The hash of a model's tokenizer.

    Raises:
        CostarError: it has none.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CostarError(
            str(folder),
            found="no tokenizer.json",
            expected="the tokenizer of the release beside the weights",
            mend="save it there: tokenizer.save_pretrained(…)",
        )
    return sha256_file(path)
