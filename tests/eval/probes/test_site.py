from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from costar.core.design import Suite
from costar.core.models import ModelShape
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.analyses import compute_analyses, read_analysis
from costar.eval.context import SuiteContext
from costar.eval.loading import load_probe
from costar.eval.measure import Measurement, Places
from costar.eval.probes import Context
from costar.eval.reader import OwnReader
from costar.eval.score import Measurer
from costar.insertion.overlay import open_suite_overlay
from costar.manifests.catalogue import build_manifest
from costar.manifests.sql import ask, open_manifest
from costar.train.config import read_config
from costar.train.init import init_weights
from costar.train.model import Llama

from tests.insertion.test_designs import ARMS, build, rows


@pytest.fixture(scope="module")
def case(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Workspace]:
    """Arms with factors, formats, fillers and edited copies, inserted but not trained."""
    return build(built, tmp_path_factory.mktemp("sites"), ARMS)


@pytest.mark.parametrize("arm", ["factorial", "formats", "treated", "third", "edited", "epochs"])
def test_a_site_is_what_training_read_before_and_with_the_first_copy(case: tuple[Suite, Workspace], arm: str) -> None:
    suite, workspace = case
    context = SuiteContext(suite, workspace).of_run(f"{arm}.nano.d0")
    subjects = {subject.record_id: subject for subject in context.subjects}
    overlay = open_suite_overlay(workspace, arm, 0, seed=suite.seed)
    sites = context.sites()[arm]
    copies = rows(workspace, arm)
    assert set(sites) == {row["record_id"] for row in copies}
    for record_id, site in sites.items():
        row = min((row for row in copies if row["record_id"] == record_id), key=lambda row: row["slot"])
        read = overlay.sequences(np.array([row["slot"]]))[0].tolist()
        ids = subjects[record_id].renderings[site.rendering].ids
        assert [*site.before, *ids] == read[: row["start"] + row["length"]]
        assert site.rendering == row["rendering"]
        assert len(site.before) >= 1


def test_a_run_has_the_sites_of_its_arm_and_of_those_that_it_controls(case: tuple[Suite, Workspace]) -> None:
    suite, workspace = case
    contexts = SuiteContext(suite, workspace)

    def arms(run: str) -> set[str]:
        return set(contexts.of_run(run).sites())

    controlled = {a.name for a in suite.arms.values() if a.control == "standard" and a.inserted and a.filler == "none"}
    assert arms("standard.nano.d0") == controlled
    assert controlled == {"edited", "formats", "swapped", "third"}
    assert arms("edited.nano.d0") == {"edited"}
    assert arms("filled.nano.d0") == {"treated"}  # an arm of fillers inserts no record
    assert arms("kin.nano.d0") == set()
    assert arms("standard.nano.d1") == set()  # no arm has a second draw


def measurement(context: Context, suite: Suite, model: Llama, folder: Path) -> Measurement:
    size = context.tokenizer.vocab_size
    reader = OwnReader(model, vocab_size=size, longest=context.length, eos=context.tokenizer.eos_id)
    return Measurement(
        places=Places(ledger=folder / "l", generated=folder / "g", scores=folder / "s", run="standard.nano.d0", step=1),
        identity="",
        facts="",
        context=context,
        probes=[load_probe("site", suite)],
        serves=frozenset({"loglik", "sites"}),
        byte_counts=np.ones(size, np.int32),
        open_reader=lambda: reader,
    )


def test_a_score_is_that_of_a_direct_pass_over_the_training_sequence(
    case: tuple[Suite, Workspace], tmp_path: Path
) -> None:
    suite, workspace = case
    torch.set_num_threads(1)
    context = replace(
        SuiteContext(suite, workspace).of_run("edited.nano.d0"),
        design=replace(suite.eval, prefixes=(4,), suffix=4),
    )
    model = Llama(ModelShape(layers=1, hidden=32, heads=2, kv_heads=2, ffn=48, vocab_size=512, tied=False))
    init_weights(model, 5, 0)
    for parameter in model.parameters():
        parameter.data *= 4
    site = load_probe("site", suite)
    work = measurement(context, suite, model, tmp_path)
    scores, gaps = work._scored(site, work._ledger([site]), {})
    assert not gaps
    values = {(s.record_id, s.variant, s.metric): s.value for s in scores}
    overlay = open_suite_overlay(workspace, "edited", 0, seed=suite.seed)
    checked = set()
    for row in sorted(rows(workspace, "edited"), key=lambda row: row["slot"]):
        if row["record_id"] in checked:
            continue
        checked.add(row["record_id"])
        read = torch.tensor(overlay.sequences(np.array([row["slot"]]))[0].astype(np.int64))
        with torch.no_grad():
            logits = model(read[None, :-1])[0, :, : context.tokenizer.vocab_size].double()
        logps = torch.log_softmax(logits, -1).gather(1, read[1:, None])[:, 0]
        part = slice(row["start"] - 1, row["start"] - 1 + row["length"])
        top1 = (logits.argmax(-1) == read[1:])[part]
        nll = values[(row["record_id"], "site=edited", "nll_token")]
        assert nll == pytest.approx(float(-logps[part].mean()), abs=2e-5)
        assert values[(row["record_id"], "site=edited", "exact_fraction")] == pytest.approx(float(top1.double().mean()))
        if row["length"] >= 8:
            extracted = values[(row["record_id"], "site=edited,prefix=4", "extracted")]
            assert extracted == float(top1[4:8].all())
    assert len(checked) > 20


def test_sites_pair_treated_and_control_and_give_totals_of_the_treated_arm_alone(built: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    shutil.copytree(built, tmp_path / "small", ignore=shutil.ignore_patterns("eval", "release", "report"))
    workspace = Workspace(tmp_path / "small")
    loaded = load_suite(workspace.root / "suite.toml")
    suite = replace(loaded, eval=replace(loaded.eval, probes=("site",)))
    for run, steps in (("standard", (24, 96)), ("perturbed", (24, 96)), ("late", (96,))):
        for step in steps:
            Measurer(suite, workspace).measure(read_config(workspace, f"{run}.nano.d0"), step)
    compute_analyses(suite, workspace)
    effects = [row for row in read_analysis(workspace, "effects") if row["probe"] == "site"]
    assert {row["estimand"] for row in effects} == {"total"}
    found = {(row["treated"], row["step"], row["variant"].split(",")[0]) for row in effects}
    assert found == {
        ("perturbed.nano.d0", 24, "site=perturbed"),
        ("perturbed.nano.d0", 96, "site=perturbed"),
        ("late.nano.d0", 24, "site=late"),  # before its phase it is the control's run: no difference
        ("late.nano.d0", 96, "site=late"),
    }
    levels = {row["level"] for row in effects if row["perturbation"] == "passages"}
    assert levels == {1, 14}
    assert all(row["estimate"] == 0 for row in effects if (row["treated"], row["step"]) == ("late.nano.d0", 24))
    learned = [
        row["estimate"] for row in effects if (row["metric"], row["level"], row["step"]) == ("nll_token", 14, 96)
    ]
    assert len(learned) == 2
    assert max(learned) < -0.3
    build_manifest(suite, workspace)
    connection = open_manifest(workspace)
    _, pairs = ask(
        connection, "select count(*) from scores where probe = 'site' and run = 'standard.nano.d0' and step = 96"
    )
    assert pairs[0][0] > 100
    connection.close()
