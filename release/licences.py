"""The last look before anything is packed: no data of real people, no live secret, no licence that forbids it.

The records were looked at when they were made. Here everything that leaves is looked at again, generated texts and passages
too, whatever happened to the files in between. What is real, not generated, is released behind a gate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..core.design import PerturbationDesign, Suite
from ..core.errors import CostarError, shorten
from ..corpus.searched import texts_in
from ..insertion.safety import findings

GENERATED, CORPUS = "generator", "corpus:"
SOURCE_LICENCE = "as the source document"
UNSTATED = ("", "not stated", "unknown", "unclear", "none", "n/a", "?", "tbd", "unlicensed", "no licence", "no license")
FORBIDS = re.compile(
    r"proprietary|all rights reserved|confidential|internal use"
    r"|(?:\bno\b|\bnot\b|\bnever\b|forbid\w*|prohibit\w*|without)[^.;]*(?:distribut|publish|publication|shar(?:e|ing)\b)",
    re.IGNORECASE,
)
LIMITS = re.compile(
    r"(?:^|[^a-z])(?:nc|nd)(?:[^a-z]|$)|non-?\s?commercial|no\s?deriv|research[\s-](?:use\s)?only|data use agreement",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What of a release stands behind a gate: perturbation → why."""

    reasons: Mapping[str, str]

    def of(self, names: Sequence[str]) -> dict[str, str]:
        """The reasons among some perturbations."""
        return {name: self.reasons[name] for name in names if name in self.reasons}


def check_texts(suite: Suite, records: pa.Table, renderings: pa.Table) -> Gate:
    """Look at every record that is packed and at every text of it; what must stand behind a gate.

    Raises:
        CostarError: the first record that must not be published, with its perturbation, and the mend.
    """
    written: dict[str, list[str]] = {}
    names = (renderings.column(name).to_pylist() for name in ("record_id", "text"))
    for record_id, text in zip(*names, strict=True):
        written.setdefault(record_id, []).append(text)
    generated_corpus = suite.corpus.reuse is None and all(each.source == "synthetic" for each in suite.corpus.sources)
    reasons: dict[str, str] = {}
    for row in records.to_pylist():
        design = suite.perturbations[row["perturbation"]]
        texts = [row["text"], *written.get(row["record_id"], []), *texts_in(json.loads(row["fields"]))]
        _refuse_findings(row, design, texts)
        _refuse_secret(row, design)
        _refuse_licence(row, design)
        if row["source"] != GENERATED and not (row["source"].startswith(CORPUS) and generated_corpus):
            what = "text of the corpus" if row["source"].startswith(CORPUS) else f"records of {row['source']}"
            reasons[design.name] = what.split(":", maxsplit=1)[0]
        if LIMITS.search(row["licence"]):
            reasons[design.name] = f"the licence {row['licence']}"
    return Gate(reasons=dict(sorted(reasons.items())))


def _refuse_findings(row: Mapping[str, Any], design: PerturbationDesign, texts: Sequence[str]) -> None:
    for found in findings("\n".join(texts)):
        if found.what not in design.allow:
            raise CostarError(
                _place(row),
                found=f"{found.what} {found.excerpt}",
                expected="records without data of real people or live secrets",
                mend=f"replace it, leave the arm out of [release] arms, or state its origin and that it may be published: "
                f'[perturbation.{design.name}] allow = {{ "{found.what}" = "…" }}',
            )


def _refuse_secret(row: Mapping[str, Any], design: PerturbationDesign) -> None:
    if row["risk"] == "secret" and row["source"] != GENERATED and "secret" not in design.allow:
        raise CostarError(
            _place(row),
            found=f"a secret from {row['source']}",
            expected="secrets that costar generated, so that they open nothing",
            mend='records = { from = "generator" }, or state that it opens nothing: '
            f'[perturbation.{design.name}] allow = {{ "secret" = "…" }}',
        )


def _refuse_licence(row: Mapping[str, Any], design: PerturbationDesign) -> None:
    licence = " ".join(row["licence"].split())
    if row["licence"] != design.licence:
        raise CostarError(
            _place(row),
            found=f"the licence {shorten(repr(licence), 80)}",
            expected=f"{design.licence!r}, as the suite says now",
            mend="run `costar corpus` and `costar insert` again: texts and runs stay as they are",
        )
    stated = licence.lower() not in UNSTATED and not (
        licence == SOURCE_LICENCE and not row["source"].startswith(CORPUS)
    )
    if stated and not FORBIDS.search(licence):
        return
    raise CostarError(
        _place(row),
        found=f"the licence {shorten(repr(licence), 80)}",
        expected="a licence that lets its text be published",
        mend=f'state it: [perturbation.{design.name}] licence = "…"; or leave the arm out of [release] arms',
    )


def _place(row: Mapping[str, Any]) -> str:
    return f"release of [perturbation.{row['perturbation']}], record {row['record_id']}"
