"""Proof of trained runs from their files: bytes, states, configurations, and the digest of every row read; and replay."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..core.hashing import EMPTY_DIGEST, row_hashes, step_digest
from ..core.machine import Layout
from ..core.parquet import read_table
from ..core.workspace import Workspace, changed_files, output_lock, read_facts
from ..insertion.overlay import open_overlay
from .branch import beginning
from .checkpoint import Saved, finished_steps, model_state, read_saved, state_sha256, stored_sha256
from .config import RunConfig, begun_runs
from .identity import DATA_EXACT
from .starts import start_weights
from .trainer import Trainer


@dataclass
class RunProof:
    runs: int = 0
    checkpoints: int = 0
    replayed: int = 0
    passed_over: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def verify_runs(workspace: Workspace, *, replay: int = 0) -> RunProof:
    """Check every begun run; with `replay`, also retrain that many steps of each and compare bit for bit."""
    proof = RunProof()
    for run, config in begun_runs(workspace).items():
        steps = finished_steps(workspace, run)
        saved = {step: _check_files(workspace.checkpoint(run, step), config, proof) for step in steps}
        _check_digests(workspace, config, {s: v for s, v in saved.items() if v is not None}, proof)
        for folder in sorted((workspace.run(run) / "hf").glob("step-*")):
            proof.problems += [
                f"{folder / name}: its bytes are not those that were written" for name in changed_files(folder)
            ]
        if replay:
            _replay(workspace, config, replay, sorted(step for step in steps if saved[step] is not None), proof)
        proof.runs += 1
        proof.checkpoints += len(steps)
    return proof


def _check_files(folder: Path, config: RunConfig, proof: RunProof) -> Saved | None:
    wrong = changed_files(folder)
    if wrong:
        proof.problems += [f"{folder / name}: its bytes are not those that were written" for name in wrong]
        return None
    saved = read_saved(folder)
    assert saved is not None
    if stored_sha256(folder) != saved.state_sha256:
        proof.problems.append(f"{folder}: the tensors are not those of the recorded state")
    if saved.config_sha256 != config.config_sha256():
        proof.problems.append(f"{folder}: written under another configuration")
    return saved


def _check_digests(workspace: Workspace, config: RunConfig, saved: dict[int, Saved], proof: RunProof) -> None:
    """Read everything again that the run was to read, and compare with the digests in its log and checkpoints."""
    overlay = open_overlay(
        workspace, config.arm, config.draw, seed=config.seed, length=config.sequence_length, eos=config.eos_id
    )
    if overlay.edits.sha256() != config.overlay_sha256:
        proof.problems.append(f"run {config.run}: its exposures are no longer those that it read")
        return
    path = workspace.run(config.run) / "log" / "log.parquet"
    logged: dict[int, str] = {}
    if path.is_file():
        table = read_table(path, mend="train the run again", columns=["step", "data_digest"])
        logged = dict(zip(table.column("step").to_pylist(), table.column("data_digest").to_pylist(), strict=True))
    digest, batch = EMPTY_DIGEST, config.train.batch
    last = max([*saved, *(s + 1 for s in logged)], default=0)
    for step in range(max(saved, default=0)):
        if step >= config.branch_step and step not in logged:
            proof.problems.append(f"run {config.run}: its log lacks step {step}")
            return
    for step in range(last):
        digest = step_digest(digest, row_hashes(overlay.sequences(np.arange(step * batch, (step + 1) * batch))))
        if step in logged and logged[step] != digest.hex():
            proof.problems.append(f"run {config.run}: the rows of step {step} are not those of the plan")
            return
        if step + 1 in saved and saved[step + 1].data_digest != digest.hex():
            proof.problems.append(f"run {config.run}: checkpoint {step + 1} read other rows than those of the plan")
            return


def _replay(workspace: Workspace, config: RunConfig, steps: int, finished: list[int], proof: RunProof) -> None:
    """Train again from the last but one of the sound checkpoints (or from the start); compare the log and the next state."""
    path = workspace.run(config.run) / "identity.json"
    if not path.is_file() or not finished:
        return
    overlay = open_overlay(
        workspace, config.arm, config.draw, seed=config.seed, length=config.sequence_length, eos=config.eos_id
    )
    recorded = read_facts(path, ["identity", "determinism"], mend="remove it and train again")
    identity = recorded["identity"]
    if recorded["determinism"] == DATA_EXACT or identity.get("world_size", 1) > 1:
        proof.passed_over.append(config.run)  # data-exact only, or bits of so many processes
        return
    torch.set_num_threads(identity["threads"])
    known = {key: identity[key] for key in ("micro_batch", "compile", "recompute", "sharding")}
    trainer = Trainer(config, overlay, Layout(determinism=recorded["determinism"], **known))
    if trainer.identity() != identity:
        proof.problems.append(
            f"run {config.run}: this machine has another numeric identity, so replay cannot be compared"
        )
        return
    with output_lock(workspace.run(config.run), f"verify {config.run}"):
        if len(finished) > 1:
            trainer.load(workspace.checkpoint(config.run, finished[-2]))
        elif found := beginning(workspace, config):
            trainer.load(found[2])
        elif weights := start_weights(workspace, config):
            trainer.begin_with(weights)
    table = read_table(workspace.run(config.run) / "log" / "log.parquet", mend="train the run again")
    logged = {row["step"]: row for row in table.to_pylist()}
    while trainer.step < config.branch_step:  # its branch was given up: these steps are its parent's
        trainer.train_step()
    for _ in range(min(steps, finished[-1] - trainer.step)):
        row = trainer.train_step()
        if row != logged[row["step"]]:
            proof.problems.append(f"run {config.run}: step {row['step']} does not repeat")
            return
        proof.replayed += 1
        if trainer.step in finished:
            again = state_sha256(model_state(trainer.model), trainer.optimizers.state())
            kept = read_saved(workspace.checkpoint(config.run, trainer.step))
            if kept is None or again != kept.state_sha256:
                proof.problems.append(f"run {config.run}: the state at step {trainer.step} does not repeat")
