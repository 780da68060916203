"""Exactness: resume equals uninterrupted and branch equals standalone, bit for bit; damage is named or passed over."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from costar.core.errors import CostarError
from costar.core.machine import Layout
from costar.core.workspace import Workspace
from costar.train.checkpoint import Saved, finished_steps, read_saved
from costar.train.config import config_path, read_config, write_config
from costar.train.loop import train_run


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def saved(workspace: Workspace, run: str, step: int) -> Saved:
    found = read_saved(workspace.checkpoint(run, step))
    assert found is not None
    return found


def drop_after(workspace: Workspace, run: str, step: int) -> None:
    for later in finished_steps(workspace, run):
        if later > step:
            shutil.rmtree(workspace.checkpoint(run, later))


def test_resume_equals_uninterrupted(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    before = {step: saved(workspace, "perturbed.nano.d0", step) for step in (72, 96)}
    log = (workspace.run("perturbed.nano.d0") / "log" / "log.parquet").read_bytes()
    drop_after(workspace, "perturbed.nano.d0", 48)
    path = workspace.run("perturbed.nano.d0") / "log" / "log.jsonl"
    path.write_text(path.read_text() + '{"run": "perturbed.nano.d0", "step": 5')  # as a killed process leaves it
    train_run(workspace, "perturbed.nano.d0")
    assert {step: saved(workspace, "perturbed.nano.d0", step) for step in (72, 96)} == before
    assert (workspace.run("perturbed.nano.d0") / "log" / "log.parquet").read_bytes() == log


def test_branch_equals_standalone(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    config = read_config(workspace, "late.nano.d0")
    assert (config.parent_run, config.branch_step) == ("standard.nano.d0", 48)
    branch = saved(workspace, config.run, 96)
    shutil.rmtree(workspace.run(config.run))
    write_config(workspace, replace(config, parent_run=None, branch_step=0, checkpoints=(24, 48, 96)))
    train_run(workspace, config.run)
    assert saved(workspace, config.run, 96) == branch
    ours, theirs = (saved(workspace, run, 48) for run in (config.run, "standard.nano.d0"))
    assert (ours.state_sha256, ours.data_digest) == (theirs.state_sha256, theirs.data_digest)


def test_a_damaged_checkpoint_is_passed_over_with_a_remark_and_nothing_else_changes(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    last = saved(workspace, "early.nano.d0", 96)
    drop_after(workspace, "early.nano.d0", 72)
    path = workspace.checkpoint("early.nano.d0", 72) / "rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    remarks: list[str] = []
    train_run(workspace, "early.nano.d0", remark=remarks.append)
    assert "checkpoint at step 72 is damaged" in remarks[0]
    assert saved(workspace, "early.nano.d0", 96) == last


def test_a_checkpoint_of_another_configuration_is_refused(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    shutil.rmtree(workspace.checkpoint("early.nano.d0", 96))
    shutil.rmtree(workspace.checkpoint("early.nano.d0", 72))
    shutil.copytree(workspace.checkpoint("perturbed.nano.d0", 72), workspace.checkpoint("early.nano.d0", 72))
    with pytest.raises(CostarError, match="another configuration"):
        train_run(workspace, "early.nano.d0")


def test_a_swapped_tokenizer_or_corpus_is_refused_before_training(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    drop_after(workspace, "early.nano.d0", 72)
    facts = json.loads((workspace.corpus / "corpus.json").read_text())
    for key in ("tokens_sha256", "tokenizer_sha256"):
        (workspace.corpus / "corpus.json").write_text(
            json.dumps(facts | {key: "0" * 64}, indent=1, sort_keys=True) + "\n"
        )
        with pytest.raises(CostarError, match="than the one it was planned with"):
            train_run(workspace, "early.nano.d0")


def test_another_numeric_identity_lowers_the_promise(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    drop_after(workspace, "early.nano.d0", 72)
    path = workspace.run("early.nano.d0") / "identity.json"
    recorded = json.loads(path.read_text())
    assert recorded["determinism"] == "repeatable"
    recorded["identity"]["threads"] = 64
    path.write_text(json.dumps(recorded))
    remarks: list[str] = []
    train_run(workspace, "early.nano.d0", remark=remarks.append)
    assert "another threads" in remarks[0]
    assert json.loads(path.read_text())["determinism"] == "data-exact"


def test_gradient_accumulation_reads_the_same_rows(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    before = saved(workspace, "early.nano.d0", 96)
    shutil.rmtree(workspace.run("early.nano.d0") / "checkpoints")
    train_run(workspace, "early.nano.d0", layout=Layout(micro_batch=4))
    after = saved(workspace, "early.nano.d0", 96)
    assert after.data_digest == before.data_digest
    assert after.state_sha256 != before.state_sha256  # micro-batch is part of the numeric identity


def test_a_missing_run_and_a_broken_configuration_are_named(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    with pytest.raises(CostarError, match="no such run"):
        read_config(workspace, "absent.nano.d0")
    config_path(workspace, "early.nano.d0").write_text("{")
    with pytest.raises(CostarError, match="not a run's configuration"):
        read_config(workspace, "early.nano.d0")


def test_both_optimizers_learn_and_adamw_resumes_exactly(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    config = read_config(workspace, "standard.nano.d0")
    train = replace(config.train, optimizer="adamw", lr=3e-3, steps=12)
    states = []
    for name, stop in (("standard.one.d0", 12), ("standard.two.d0", 6)):
        write_config(workspace, replace(config, run=name, train=train, checkpoints=(6, 12)))
        train_run(workspace, name)
        drop_after(workspace, name, stop)
        train_run(workspace, name)
        states.append(saved(workspace, name, 12).state_sha256)
    assert states[0] == states[1]
    rows = [
        json.loads(line) for line in (workspace.run("standard.one.d0") / "log" / "log.jsonl").read_text().splitlines()
    ]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3


def test_a_copied_run_folder_is_refused_and_a_lost_log_is_made_again(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    path = workspace.run("early.nano.d0") / "log" / "log.parquet"
    before = path.read_bytes()
    path.unlink()
    train_run(workspace, "early.nano.d0")
    assert path.read_bytes() == before
    shutil.copytree(workspace.run("early.nano.d0"), workspace.run("copy.nano.d0"))
    with pytest.raises(CostarError, match=r"the configuration of early\.nano\.d0"):
        read_config(workspace, "copy.nano.d0")
