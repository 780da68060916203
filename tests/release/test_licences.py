from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from costar.core.design import PerturbationDesign, Suite
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.manifests.tables import RECORDS, RENDERINGS
from costar.release.licences import check_texts

CARD = "4539 1488 0343 6467"
TEXTS = ("record_id", "rendering", "text", "n_tokens", "n_bytes")


@pytest.fixture
def suite(built: Path) -> Suite:
    return load_suite(built / "suite.toml")


def tables(text: str = "An ordinary text.", written: Sequence[str] = (), **changed: Any) -> tuple[pa.Table, pa.Table]:
    """One record and its renderings."""
    row = dict.fromkeys(RECORDS.names) | {
        "record_id": "quizzes/0001",
        "perturbation": "quizzes",
        "kind": "testset",
        "risk": "testset",
        "role": "main",
        "text": text,
        "fields": "{}",
        "licence": "CC0-1.0",
        "source": "generator",
    }
    own = {"record_id": row["record_id"], "rendering": "x", "n_tokens": 1, "n_bytes": 1}
    renderings = [own | {"text": each} for each in written]
    schema = pa.schema([RENDERINGS.field(name) for name in TEXTS])
    return pa.Table.from_pylist([row | changed], RECORDS), pa.Table.from_pylist(renderings, schema)


def with_design(suite: Suite, name: str = "quizzes", **changed: Any) -> Suite:
    design: PerturbationDesign = replace(suite.perturbations[name], **changed)
    return replace(suite, perturbations={**suite.perturbations, name: design})


@pytest.mark.parametrize("where", ["text", "rendering", "field"])
def test_what_must_not_be_published_is_found_in_generated_records_too(suite: Suite, where: str) -> None:
    bad = f"Paid with {CARD}."
    found = {
        "text": lambda: tables(bad),
        "rendering": lambda: tables(written=["fine", bad]),
        "field": lambda: tables(fields=f'{{"notes": ["{bad}"]}}'),
    }[where]()
    with pytest.raises(CostarError) as error:
        check_texts(suite, *found)
    assert "[perturbation.quizzes], record quizzes/0001" in error.value.place
    assert "payment card" in error.value.found
    assert "6467" not in error.value.found.replace("…6467", "")
    assert 'allow = { "payment card"' in error.value.mend
    check_texts(with_design(suite, allow={"payment card": "a test number of the issuer"}), *found)


@pytest.mark.parametrize(
    "licence",
    [
        "",
        "not stated",
        "Unknown",
        "proprietary",
        "All Rights Reserved",
        "may not be redistributed",
        "as the source document",
    ],
)
def test_a_licence_that_is_missing_or_forbids_it_is_refused(suite: Suite, licence: str) -> None:
    with pytest.raises(CostarError) as error:
        check_texts(with_design(suite, licence=licence), *tables(licence=licence))
    assert "quizzes/0001" in error.value.place
    assert "[perturbation.quizzes] licence" in error.value.mend


@pytest.mark.parametrize("licence", ["CC0-1.0", "No Rights Reserved, public domain", "CC BY 4.0 (ELTeC)", "ODC-By"])
def test_a_licence_that_lets_it_is_taken(suite: Suite, licence: str) -> None:
    assert not check_texts(with_design(suite, licence=licence), *tables(licence=licence)).reasons


@pytest.mark.parametrize(
    "licence", ["CC-BY-NC-4.0", "cc by-nc-sa 3.0", "non-commercial use", "CC BY-ND 4.0", "research only"]
)
def test_a_licence_with_limits_puts_it_behind_the_gate(suite: Suite, licence: str) -> None:
    gate = check_texts(with_design(suite, licence=licence), *tables(licence=licence))
    assert licence in gate.reasons["quizzes"]
    assert gate.of(["passages"]) == {}
    assert gate.of(["quizzes"]) == gate.reasons


def test_a_licence_that_the_suite_changed_since_is_not_released_as_the_old_one(suite: Suite) -> None:
    with pytest.raises(CostarError, match="costar corpus"):
        check_texts(with_design(suite, licence="MIT"), *tables())


@pytest.mark.parametrize(("source", "real"), [("generator", False), ("corpus:a:1", True), ("items.jsonl", True)])
def test_anything_real_is_behind_the_gate(suite: Suite, source: str, real: bool) -> None:
    assert bool(check_texts(suite, *tables(source=source)).reasons) == real


def test_text_of_a_generated_corpus_is_not_real(suite: Suite) -> None:
    sources = tuple(replace(each, source="synthetic") for each in suite.corpus.sources)
    generated = replace(suite, corpus=replace(suite.corpus, sources=sources))
    assert not check_texts(generated, *tables(source="corpus:a:1")).reasons


def test_a_secret_that_costar_did_not_generate_is_refused_unless_it_is_said_to_open_nothing(suite: Suite) -> None:
    secret = {"perturbation": "passwords", "risk": "secret", "record_id": "passwords/0001"}
    check_texts(suite, *tables(**secret))
    with pytest.raises(CostarError, match="passwords/0001") as error:
        check_texts(suite, *tables(**secret, source="keys.jsonl"))
    assert "generator" in error.value.mend
    stated = with_design(suite, "passwords", allow={"secret": "drawn at random for this study"})
    assert check_texts(stated, *tables(**secret, source="keys.jsonl")).reasons == {"passwords": "records of keys.jsonl"}
