"""Checkpoints and records that cannot be measured, by the whole path: gaps are told, and the rest goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from costar.core.suite import load_suite
from costar.core.workspace import Workspace, finish_step, read_marker
from costar.eval.measure import Measurement, Places
from costar.eval.probes import NEEDED, READABLE, Context, Found, Gap, Loaded, Score, choice, extraction, likelihood
from costar.eval.score import Measurer
from costar.manifests.sql import ask, open_manifest, recipes
from costar.train.checkpoint import stored_sha256
from costar.train.config import read_config
from safetensors.torch import load_file, save_file

from tests.small import costar

RUN, STEP = "perturbed.nano.d0", 96


def spoil(workspace: Workspace, run: str, step: int) -> None:
    """Give a finished checkpoint a weight that is no number, as a training that diverged would have saved it."""
    folder = workspace.checkpoint(run, step)
    marker = read_marker(folder)
    assert marker is not None
    path = folder / "rank-00000.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][5] = torch.nan
    save_file(tensors, path)
    facts = json.loads((folder / "state.json").read_text())
    facts["state_sha256"] = stored_sha256(folder)
    (folder / "state.json").write_text(json.dumps(facts))
    finish_step(folder, marker["input"], [folder / name for name in marker["files"]])


def test_a_checkpoint_of_no_numbers_is_all_gaps_and_the_others_are_measured(built_copy: Path) -> None:
    folder, workspace = built_copy.parent.parent, Workspace(built_copy)
    spoil(workspace, RUN, STEP)
    told = costar(folder, "eval", "./small.toml").stdout
    line = next(line for line in told.splitlines() if " gaps: " in line)
    assert "not numbers" in line
    assert "make sql Q=gaps" in line
    connection = open_manifest(workspace)
    _, counts = ask(connection, "select run, step, count(*) from scores group by all")
    _, gaps = ask(connection, "gaps")
    _, effects = ask(connection, "select distinct treated, step from effects where estimand = 'total'")
    connection.close()
    assert {(run, step) for run, step, _, _, _, _, _ in gaps} == {(RUN, STEP)}
    assert {probe for _, _, probe, _, _, _, _ in gaps} >= {"likelihood", "extraction", "choice", "secret-rank"}
    assert sum(gap[4] for gap in gaps) == int(line.split(" gaps")[0].strip().replace(",", ""))
    measured = {(run, step) for run, step, _ in counts}
    assert (RUN, STEP) not in measured
    assert {(RUN, 72), ("early.nano.d0", STEP), ("standard.nano.d0", STEP)} <= measured
    assert (RUN, STEP) not in effects
    assert (RUN, 72) in effects
    assert f"run {RUN}" in costar(folder, "status", "./small.toml").stdout
    costar(folder, "verify", "./small.toml")
    again = costar(folder, "eval", "./small.toml")
    assert line.strip() in again.stdout
    costar(folder, "report", "./small.toml")
    page = (built_copy / "report" / "index.html").read_text()
    assert "Not measured: " in page
    assert "-9223372036854775808" not in page  # what a NaN is as an integer


def test_the_recipe_names_run_step_probe_reason_number_and_an_example(built: Path) -> None:
    assert "gaps" in recipes()
    connection = open_manifest(Workspace(built))
    names, _ = ask(connection, "gaps")
    connection.close()
    assert names == ["run", "step", "probe", "reason", "n", "records", "example"]


@pytest.fixture(scope="module")
def context(built: Path) -> Context:
    return Measurer(load_suite(built / "suite.toml"), Workspace(built)).contexts.of_run(RUN)


def measured(
    built: Path, folder: Path, context: Context, probe: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Scores and gaps of a probe on the last checkpoint, with these records."""
    torch.set_num_threads(1)
    workspace = Workspace(built)
    suite = load_suite(built / "suite.toml")
    given = replace(suite, eval=replace(suite.eval, probes=(probe,)))
    measurer = Measurer(given, workspace)
    config = read_config(workspace, RUN)
    places = Places(ledger=folder / "l", generated=folder / "g", scores=folder / "s", run=RUN, step=STEP)
    Measurement(
        places=places,
        identity="",
        facts="",
        context=context,
        probes=measurer.probes,
        serves=frozenset({*NEEDED, *READABLE}),
        byte_counts=measurer.byte_counts,
        open_reader=lambda: measurer._reader(config, STEP),
    ).run()
    scores, gaps = (
        pq.read_table(folder / "s" / f"{what}-000096.{probe}.parquet").to_pylist() for what in ("step", "gaps")
    )
    return scores, gaps


def test_a_single_choice_is_a_gap_of_that_record(built: Path, tmp_path: Path, context: Context) -> None:
    first = next(s for s in context.subjects if s.kind == "testset")
    single = replace(first, fields=dict(first.fields) | {"choices": ["only"], "answer": 0})
    given = replace(context, subjects=tuple(single if s is first else s for s in context.subjects))
    scores, gaps = measured(built, tmp_path, given, "choice")
    assert {gap["record_id"] for gap in gaps} == {first.record_id}
    assert {gap["reason"] for gap in gaps} == {"1 option, a choice needs two or more"}
    assert {s["record_id"] for s in scores} == {s.record_id for s in context.subjects if s.kind == "testset"} - {
        first.record_id
    }


def test_a_perturbation_of_one_record_is_measured(built: Path, tmp_path: Path, context: Context) -> None:
    one = replace(context, subjects=(next(s for s in context.subjects if s.kind == "passage"),))
    for probe in ("likelihood", "extraction", "relearning", "site"):
        scores, gaps = measured(built, tmp_path / probe, one, probe)
        assert gaps == []
        assert scores or probe == "site"


def test_nothing_found_is_a_gap_with_its_reason_for_every_record(context: Context) -> None:
    found = Found(ledger={}, refused={})
    for probe in (likelihood, extraction, choice):
        results = list(Loaded(name="", probe=probe, code="", from_user=False).scores(context, found))
        assert results
        assert all(isinstance(each, Gap) and each.reason == "not asked for" for each in results)
        assert not any(isinstance(each, Score) for each in results)
