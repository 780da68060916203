from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.manifests.tables import RECORDS
from costar.release.canary import canary_of
from costar.release.data import corpus_recipe, flat_records, source_tables
from costar.release.pairs import find_pairs

CONFIGS = {
    "records",
    "renderings",
    "assignments",
    "exposures",
    "corpus",
    "effects",
    "membership",
    "ledger",
    "scores",
}


def rows_of(built: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(built / "release" / "data" / f"{name}.parquet").to_pylist()
    return found


def test_every_configuration_loads_with_datasets(built: Path, tmp_path: Path) -> None:
    from datasets import get_dataset_config_names, load_dataset

    folder = str(built / "release" / "data")
    assert set(get_dataset_config_names(folder)) == CONFIGS
    loaded = {name: load_dataset(folder, name, split="train", cache_dir=str(tmp_path)) for name in sorted(CONFIGS)}
    assert set(loaded["exposures"]["arm"]) == {"perturbed"}
    assert len(loaded["exposures"]) == 12 + 168 + 20 + 40
    assert set(loaded["ledger"]["run"]) == set(loaded["scores"]["run"]) == {"perturbed.nano.d0", "standard.nano.d0"}
    assert set(loaded["ledger"]["step"]) == set(loaded["scores"]["step"]) == {96}


def test_columns_are_flat_and_no_text_is_json(built: Path) -> None:
    for path in (built / "release" / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        for field in table.schema:
            inner = field.type.value_type if pa.types.is_list(field.type) else field.type
            assert not pa.types.is_nested(inner), f"{path.name}: {field}"
            if pa.types.is_string(field.type):
                assert not any(text and text[0] in "{[" for text in table.column(field.name).to_pylist()), field.name


def test_records_have_their_fields_licence_source_and_canary(built: Path) -> None:
    given = {row["record_id"]: row for row in pq.read_table(built / "insertion" / "records.parquet").to_pylist()}
    line = canary_of(Workspace(built))
    for row in rows_of(built, "records"):
        fields = json.loads(given[row["record_id"]]["fields"])
        for name, value in fields.items():
            shown = [str(each) for each in value] if isinstance(value, list) else str(value)
            assert row[f"field_{name}"] == shown
        others = {name for name, value in row.items() if name.startswith("field_") and value is not None}
        assert others == {f"field_{name}" for name in fields}
        assert row["licence"]
        assert row["source"]
        assert row["canary"] == (line if row["risk"] == "testset" else "")
    assert {row["canary"] for row in rows_of(built, "renderings")} == {line, ""}


def record(fields: Any) -> dict[str, Any]:
    return dict.fromkeys(RECORDS.names) | {"record_id": "a", "risk": "privacy", "fields": json.dumps(fields)}


def test_nested_fields_become_columns_of_texts_or_of_lists() -> None:
    turns = [{"speaker": "a", "text": "hello"}, {"speaker": "b", "text": "[ok]"}]
    fields = [
        {"turns": turns, "attributes": {"Birth place": "Ulm"}, "n": 3, "yes": True, "deep": [["a", "b"], ["c"]]},
        {"turns": ["hello"], "n": [1, 2]},
    ]
    first, second = flat_records(pa.Table.from_pylist([record(each) for each in fields], RECORDS), "line").to_pylist()
    assert first["field_turns_speaker"] == ["a", "b"]
    assert first["field_turns_text"] == ["hello", "[ok]"]
    assert second["field_turns"] == ["hello"]
    assert first["field_attributes_birth_place"] == "Ulm"
    assert (first["field_n"], second["field_n"]) == (["3"], ["1", "2"])
    assert first["field_yes"] == "true"
    assert first["field_deep"] == ["a\nb", "c"]
    assert second["field_deep"] is None


def test_the_recipe_of_the_corpus_has_its_hashes_and_none_of_its_text(built: Path) -> None:
    (row,) = rows_of(built, "corpus")
    facts = json.loads((built / "corpus" / "corpus.json").read_text())
    assert row["paths"] == ["base.jsonl"]
    assert (row["corpus_tokens"], row["documents"]) == (facts["tokens"], facts["documents"])
    for key in ("tokens_sha256", "tokenizer_sha256", "corpus_sha256"):
        assert row[key] == facts[key]
    assert all(len(str(value)) < 100 for value in row.values())


def test_a_path_of_this_machine_is_not_in_the_recipe(built: Path) -> None:
    from dataclasses import replace

    suite = load_suite(built / "suite.toml")
    (source,) = suite.corpus.sources
    elsewhere = replace(suite.corpus, sources=(replace(source, paths=("/home/someone/base.jsonl",)),))
    assert corpus_recipe(replace(suite, corpus=elsewhere), Workspace(built)).column("paths").to_pylist() == [
        ["base.jsonl"]
    ]


def test_membership_is_the_assignment_of_the_treated_arm(built: Path) -> None:
    assigned = {row["record_id"]: row for row in rows_of(built, "assignments") if row["arm"] == "perturbed"}
    texts = {(row["record_id"], row["rendering"]): row["text"] for row in rows_of(built, "renderings")}
    copies: dict[str, int] = {}
    for row in rows_of(built, "exposures"):
        copies[row["record_id"]] = copies.get(row["record_id"], 0) + 1
    rows = rows_of(built, "membership")
    assert {row["record_id"] for row in rows} == {
        r["record_id"] for r in rows_of(built, "records") if r["role"] == "main"
    }
    for row in rows:
        given = assigned[row["record_id"]]
        assert (row["level"], row["split"]) == (given["level"], given["split"])
        assert copies.get(row["record_id"], 0) == row["level"]
        assert row["text"] == texts[row["record_id"], given["rendering"]]


def test_records_that_no_released_run_reads_stay_home(built: Path) -> None:
    from dataclasses import replace

    suite, workspace = load_suite(built / "suite.toml"), Workspace(built)
    late = replace(suite, release=replace(suite.release, arms=("late",)))
    records, renderings = source_tables(late, workspace, find_pairs(late, workspace), blind=False)
    assert set(records.column("perturbation").to_pylist()) == {"passages"}
    assert {name.split("/")[0] for name in renderings.column("record_id").to_pylist()} == {"passages"}


@pytest.mark.parametrize("name", ["records", "renderings"])
def test_rows_have_the_order_of_the_suite(built: Path, name: str) -> None:
    """Levels are drawn by hash, so the order in which records were made says nothing of them."""
    ours = [row["record_id"] for row in rows_of(built, name)]
    made = pq.read_table(built / "insertion" / f"{name}.parquet").column("record_id").to_pylist()
    assert ours == made
