from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from costar.core.suite import load_suite
from costar.release.cards import citation, gate_fields, hub_licence
from costar.release.pairs import Pair
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.utils import validate_repo_id

TREATED, CONTROL = "perturbed.nano.d0", "standard.nano.d0"
PAIR = Pair(treated=TREATED, control=CONTROL, arm="perturbed", model="nano", draw=0)


def model_card(built: Path, *parts: str) -> ModelCard:
    return ModelCard.load(built.joinpath("release", *parts, "README.md"))


def means_of(built: Path, run: str) -> Mapping[tuple[str, int], float]:
    """The mean loss of main records by perturbation and level, from the released tables themselves."""
    data = built / "release" / "data"
    arm = run.split(".", maxsplit=1)[0]
    levels = {
        row["record_id"]: row["level"]
        for row in pq.read_table(data / "assignments.parquet").to_pylist()
        if row["arm"] == arm
    }
    records = {row["record_id"]: row for row in pq.read_table(data / "records.parquet").to_pylist()}
    cells: dict[tuple[str, int], list[float]] = {}
    for row in pq.read_table(data / "scores.parquet").to_pylist():
        record = records[row["record_id"]]
        if (row["run"], row["probe"], row["metric"]) == (run, "likelihood", "nll_token") and record["role"] == "main":
            cells.setdefault((record["perturbation"], levels[row["record_id"]]), []).append(row["value"])
    return {key: sum(values) / len(values) for key, values in cells.items()}


@pytest.mark.parametrize("run", [TREATED, CONTROL])
def test_results_of_the_index_are_the_means_of_the_released_scores(built: Path, run: str) -> None:
    results = model_card(built, "models", run).data.eval_results
    losses = [each for each in results if each.metric_type == "nll_token"]
    found = {(each.metric_args["perturbation"], each.metric_args["level"]): each.metric_value for each in losses}
    expected = means_of(built, run)
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-4)
    (validation,) = [each for each in results if each.metric_type == "loss"]
    table = pq.read_table(built / "runs" / run / "log" / "validation.parquet", partitioning=None).to_pylist()
    assert validation.metric_value == pytest.approx(table[-1]["loss"], abs=1e-4)


def test_metadata_come_back_as_they_were_written(built: Path) -> None:
    """A round trip through the Hub's own classes: nothing is dropped, joined or retyped."""
    for path in [*(built / "release").glob("models/*"), *(built / "release").glob("revisions/*/*")]:
        data = ModelCard.load(path / "README.md").data
        again = type(data)(**data.to_dict())
        assert again.to_yaml() == data.to_yaml()
        assert {"memorization", "membership-inference", "machine-unlearning", "costar"} <= set(data.tags)
        assert f"costar-arm:{path.parent.name.split('.')[0]}" in data.tags or path.parent.name == "models"
        assert f"costar-pair:{TREATED}" in data.tags
        assert (data.license, data.library_name, data.pipeline_tag) == ("cc0-1.0", "transformers", "text-generation")
        for name in data.datasets:
            validate_repo_id(name)
    data = DatasetCard.load(built / "release" / "data" / "README.md").data
    assert type(data)(**data.to_dict()).to_yaml() == data.to_yaml()


def test_a_card_says_what_its_model_read_and_no_more(built: Path) -> None:
    treated, control = (model_card(built, "models", run).text for run in (TREATED, CONTROL))
    assert "It memorizes by design" in treated
    assert "240 copies" in treated
    assert "give inserted secrets back" in treated
    assert "No record was inserted" in control
    assert "copies of inserted" not in control
    early = model_card(built, "revisions", TREATED, "step24").text
    assert "24,576 tokens of 98,304" in early


def test_only_what_reads_real_text_is_gated(built: Path) -> None:
    assert model_card(built, "models", TREATED).data.get("extra_gated_prompt")
    assert not model_card(built, "models", CONTROL).data.get("extra_gated_prompt")
    data = DatasetCard.load(built / "release" / "data" / "README.md").data
    assert "passages (text of the corpus)" in data.get("extra_gated_prompt")
    assert gate_fields({}) == {}


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["CC0-1.0"], {"license": "cc0-1.0"}),
        (["CC BY 4.0"], {"license": "cc-by-4.0"}),
        (["My own, see below"], {"license": "other", "license_name": "my-own-see-below"}),
        (["MIT", "CC0-1.0"], {"license": "other", "license_name": "as-stated-per-record"}),
    ],
)
def test_a_licence_that_the_hub_does_not_know_is_other_with_its_name(
    licences: list[str], expected: dict[str, Any]
) -> None:
    assert hub_licence(licences) == expected


def test_the_citation_has_the_keys_of_cff_and_the_authors_of_the_suite(built: Path) -> None:
    yaml = pytest.importorskip("yaml")
    suite = load_suite(built / "suite.toml")
    facts = yaml.safe_load((built / "release" / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(facts)
    assert facts["cff-version"] == "1.2.0"
    assert facts["authors"] == [{"name": "The authors of the suite small"}]
    named = replace(suite, release=replace(suite.release, authors=("Noether, Emmy", "The Group"), licence="Own"))
    facts = yaml.safe_load(citation(named, [PAIR]))
    assert facts["authors"] == [{"family-names": "Noether", "given-names": "Emmy"}, {"name": "The Group"}]
    assert "license" not in facts
