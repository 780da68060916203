"""Branches in the files of a built suite: where they begin, that the digest confirms them, when they are given up."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.eval.queue import EvalQueue
from costar.eval.score import Measurer
from costar.insertion.overlay import Overlay, open_overlay
from costar.manifests.lineage import checkpoint_rows, read_configs
from costar.train.branch import beginning, can_begin, confirm_branch, spent_branches
from costar.train.checkpoint import finished_steps
from costar.train.config import RunConfig, read_config, write_config
from costar.train.verify import verify_runs

STANDARD, LATE = "standard.nano.d0", "late.nano.d0"


def overlay_of(workspace: Workspace, config: RunConfig) -> Overlay:
    length, eos = config.sequence_length, config.eos_id
    return open_overlay(workspace, config.arm, config.draw, seed=config.seed, length=length, eos=eos)


def keep_only(workspace: Workspace, run: str, *steps: int) -> None:
    for step in set(finished_steps(workspace, run)) - set(steps):
        shutil.rmtree(workspace.checkpoint(run, step))


def branch_only(workspace: Workspace, step: int) -> RunConfig:
    """The standard run as one that kept a step only for the run that begins there."""
    config = read_config(workspace, STANDARD)
    kept = tuple(each for each in config.checkpoints if each != step)
    config = replace(config, checkpoints=kept, branches=(step,))
    write_config(workspace, config)
    return config


def test_a_run_begins_at_its_branch_or_at_the_nearest_whole_checkpoint_before_it(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    late = read_config(workspace, LATE)
    assert beginning(workspace, late) == (STANDARD, 48, workspace.checkpoint(STANDARD, 48))
    damaged = workspace.checkpoint(STANDARD, 48) / "state.json"
    damaged.write_bytes(damaged.read_bytes() + b" ")
    assert beginning(workspace, late) == (STANDARD, 24, workspace.checkpoint(STANDARD, 24))
    keep_only(workspace, STANDARD, 72, 96)
    assert beginning(workspace, late) is None
    assert beginning(workspace, read_config(workspace, STANDARD)) is None


def test_a_run_whose_parent_lost_its_stretch_begins_in_an_ancestor(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    late = read_config(workspace, LATE)
    child = replace(late, run="child.nano.d0", parent_run=LATE, branch_step=80)
    assert beginning(workspace, child) == (LATE, 72, workspace.checkpoint(LATE, 72))
    keep_only(workspace, LATE, 96)
    assert beginning(workspace, child) == (STANDARD, 48, workspace.checkpoint(STANDARD, 48))


def test_a_run_waits_for_its_branch_and_not_for_one_that_was_given_up(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    shutil.rmtree(workspace.run(LATE) / "checkpoints")
    late = replace(read_config(workspace, LATE), branch_step=60)
    assert can_begin(workspace, late)
    keep_only(workspace, STANDARD, 24, 48)
    assert not can_begin(workspace, late)
    assert can_begin(workspace, replace(late, branch_step=48))
    assert can_begin(workspace, replace(late, parent_run=None, branch_step=0))


def test_the_digest_confirms_a_branch_and_refuses_a_tampered_one(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    late = read_config(workspace, LATE)
    overlay = overlay_of(workspace, late)
    confirm_branch(workspace, late, overlay)
    confirm_branch(workspace, late, overlay, 24)
    with pytest.raises(CostarError, match=f"other rows at step .* than {STANDARD}"):
        confirm_branch(workspace, replace(late, branch_step=72), overlay)
    other = read_config(workspace, "perturbed.nano.d0")
    with pytest.raises(CostarError, match="other rows at step"):
        confirm_branch(workspace, replace(other, parent_run=STANDARD, branch_step=48), overlay_of(workspace, other))
    shutil.rmtree(workspace.checkpoint(STANDARD, 48))
    shutil.copytree(workspace.checkpoint(STANDARD, 24), workspace.checkpoint(STANDARD, 48))
    with pytest.raises(CostarError, match="read other rows than its log says"):
        confirm_branch(workspace, late, overlay)
    (workspace.run(STANDARD) / "log" / "log.parquet").unlink()
    with pytest.raises(CostarError, match="no digest of step 46"):
        confirm_branch(workspace, late, overlay)


def test_one_edit_that_only_the_branch_has_is_found_wherever_it_lies(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    late = read_config(workspace, LATE)
    overlay = overlay_of(workspace, late)
    for slot in (0, 8 * 20 + 3, 8 * 43 + 7):
        changed = replace(overlay.edits, slots=overlay.edits.slots.copy())
        changed.slots[0] = slot
        with pytest.raises(CostarError, match=f"other rows at step {slot // 8} "):
            confirm_branch(workspace, late, Overlay(overlay.windows, overlay.order, changed))


def test_a_branch_is_spent_once_every_child_and_the_parent_itself_went_on(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    standard, late = branch_only(workspace, 48), read_config(workspace, LATE)
    assert spent_branches(workspace, [standard, late]) == [(STANDARD, 48)]
    sibling = replace(late, run="sibling.nano.d0")
    assert spent_branches(workspace, [standard, late, sibling]) == []
    write_config(workspace, sibling)
    assert spent_branches(workspace, [standard]) == []
    shutil.rmtree(workspace.run(sibling.run))
    shutil.copytree(workspace.run(LATE) / "checkpoints", workspace.root / "aside")
    shutil.rmtree(workspace.run(LATE) / "checkpoints")
    assert spent_branches(workspace, [standard, late]) == []
    shutil.copytree(workspace.root / "aside", workspace.run(LATE) / "checkpoints")
    keep_only(workspace, STANDARD, 24, 48)
    assert spent_branches(workspace, [standard, late]) == []
    permanent = replace(standard, checkpoints=(24, 48, 72, 96), branches=())
    assert spent_branches(workspace, [permanent, late]) == []


def test_a_checkpoint_for_branches_is_neither_measured_nor_in_the_manifest(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    suite = load_suite(built_copy / "suite.toml")

    def seen() -> tuple[set[int], set[int], set[int]]:
        rows = checkpoint_rows(workspace, read_configs(workspace))
        own, heir = ({row[1] for row in rows if row[0] == run} for run in (STANDARD, LATE))
        targets = EvalQueue(Measurer(suite, workspace)).targets()
        return own, heir, {step for config, step in targets if config.run == STANDARD}

    assert seen() == ({24, 48, 72, 96}, {24, 48, 72, 96}, {24, 48, 72, 96})
    branch_only(workspace, 48)
    assert seen() == ({24, 72, 96}, {24, 72, 96}, {24, 72, 96})


def test_a_suite_whose_branch_was_given_up_still_verifies_and_repeats(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    branch_only(workspace, 48)
    keep_only(workspace, STANDARD, 24, 72, 96)
    keep_only(workspace, LATE, 96)
    for run in ("early.nano.d0", "perturbed.nano.d0"):
        shutil.rmtree(workspace.run(run))
    proof = verify_runs(workspace, replay=3)
    assert proof.problems == []
    assert (proof.runs, proof.replayed) == (2, 6)
