"""Training one run: from its last checkpoint, from its parent's, or from initialization, to its last step.

What step t reads, the learning rate and the initialization are functions of (suite, draw, arm, t). Nothing random is
carried, so a run that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import CostarError
from ..core.hashing import EMPTY_DIGEST, row_hashes, sha256_file, step_digest
from ..core.workspace import (
    HASHED_AT_ONCE,
    Workspace,
    changed_files,
    corpus_facts,
    output_lock,
    read_facts,
    write_json,
)
from ..insertion.overlay import Overlay, open_overlay
from .checkpoint import check_checkpoint, finished_steps, load_checkpoint, read_saved, save_checkpoint
from .config import RunConfig, read_config
from .export import export_hf
from .identity import DATA_EXACT, REPEATABLE, numeric_identity, pick_device, pick_dtype
from .log import RunLog, SpeedLog
from .model import Llama, init_weights
from .optim import Optimizers
from .schedule import lr_at
from .validation import ValidationLog, validation_sequences
from .watch import Watch, remark_of, stopping_error

CLIP = 1.0
Remark = Callable[[str], None]


class Trainer:
    """The state of one run in one process: model, optimizers, step, and the rolling digest of the rows read."""

    def __init__(self, config: RunConfig, overlay: Overlay, *, micro_batch: int = 0):
        self.config, self.overlay = config, overlay
        self.device = pick_device()
        self.dtype = pick_dtype(self.device)
        self.micro_batch = min(micro_batch or config.train.batch, config.train.batch)
        with torch.device(self.device):
            self.model = Llama(config.shape)
        init_weights(self.model, config.seed, config.draw)
        self.optimizers = Optimizers(self.model, config.train)
        self.step = 0
        self.digest = EMPTY_DIGEST

    def identity(self) -> dict[str, Any]:
        return numeric_identity(self.device, self.dtype, self.micro_batch)

    def load(self, folder: Path, config_sha256: str | None) -> None:
        """Continue from a checkpoint. `config_sha256` is None for a parent's, whose configuration is another."""
        saved = check_checkpoint(folder, config_sha256)
        load_checkpoint(folder, self.model, self.optimizers)
        self.step, self.digest = saved.step, bytes.fromhex(saved.data_digest)

    def rows(self, step: int) -> np.ndarray[Any, Any]:
        """The ids [batch, L+1] that a step reads."""
        batch = self.config.train.batch
        return self.overlay.sequences(np.arange(step * batch, (step + 1) * batch))

    def train_step(self) -> dict[str, Any]:
        """One update; the row of the log."""
        design = self.config.train
        rows = self.rows(self.step)
        ids = torch.from_numpy(rows.astype(np.int64)).to(self.device)
        loss = torch.zeros((), device=self.device)
        for part in torch.split(ids, self.micro_batch):
            share = self.loss(part) * (len(part) / design.batch)
            torch.autograd.backward(share)
            loss += share.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        lr = lr_at(design, self.step)
        self.optimizers.step(lr)
        self.digest = step_digest(self.digest, row_hashes(rows))
        row: dict[str, Any] = {
            "run": self.config.run,
            "step": self.step,
            "tokens": (self.step + 1) * design.batch * self.config.sequence_length,
            "loss": loss.item(),
            "lr": lr,
            "grad_norm": norm.item(),
            "data_digest": self.digest.hex(),
        }
        self.step += 1
        return row

    def evaluate(self, ids: Tensor) -> float:
        """The mean loss in nats over all targets of sequences of ids [n, L+1]."""
        parts = torch.split(ids.to(self.device), self.micro_batch)
        with torch.no_grad():
            return sum(self.loss(part).item() * len(part) for part in parts) / len(ids)

    def loss(self, ids: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the L targets of each sequence of ids [B, L+1]."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(ids[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


def is_finished(workspace: Workspace, config: RunConfig) -> bool:
    """Whether a run's last checkpoint is there (or its parent's, where nothing differs)."""
    run = config.parent_run if config.parent_run and config.branch_step == config.train.steps else config.run
    saved = read_saved(workspace.checkpoint(run, config.train.steps))
    return saved is not None and (run != config.run or saved.config_sha256 == config.config_sha256())


def locate_checkpoint(workspace: Workspace, config: RunConfig, step: int) -> tuple[str, Path]:
    """The run that wrote the checkpoint that a run has at a step (itself or an ancestor), and where it lies."""
    while config.parent_run and step <= config.branch_step:
        config = read_config(workspace, config.parent_run)
    return config.run, workspace.checkpoint(config.run, step)


def train_run(workspace: Workspace, run: str, *, micro_batch: int = 0, remark: Remark = lambda text: None) -> None:
    """Train a run whose `config.json` is written; continues where an earlier process stopped.

    Raises:
        CostarError: data or a checkpoint is damaged, belongs to something else, or another process trains this run.
    """
    folder = workspace.run(run)
    with output_lock(folder, f"train {run}"):
        config = read_config(workspace, run)
        overlay = open_overlay(
            workspace, config.arm, config.draw, seed=config.seed, length=config.sequence_length, eos=config.eos_id
        )
        _check_data(workspace, config, overlay)
        if is_finished(workspace, config):
            owner, last = locate_checkpoint(workspace, config, config.train.steps)
            if owner == run and not (folder / "log" / "log.parquet").is_file():
                RunLog.open(folder / "log", config.train.steps).save()
            if owner != run:
                write_json(folder / "identity.json", _read_identity(workspace, owner))
            export_hf(workspace, config, last, config.train.steps)
            return
        trainer = Trainer(config, overlay, micro_batch=micro_batch)
        _start(workspace, trainer, remark)
        log = RunLog.open(folder / "log", trainer.step)
        identity = trainer.identity()
        speed = SpeedLog.open(
            folder / "speed", config, trainer.step, device=identity["hardware"], devices=identity["world_size"]
        )
        validation = ValidationLog.open(folder / "log", run, trainer.step)
        held = validation_sequences(workspace, config.sequence_length)
        watch = Watch.after(workspace, config, log.rows)
        while trainer.step < config.train.steps:
            if trainer.step == 0 and 0 in config.checkpoints:
                _save(workspace, trainer, log, validation, held)
            started = time.perf_counter()
            row = trainer.train_step()
            verdict = watch.judge(row)
            if verdict is not None and verdict.stops:
                raise stopping_error(workspace, config, verdict)
            if verdict is not None:
                remark(remark_of(workspace, config, verdict))
            log.append(row)
            speed.add(row["step"], time.perf_counter() - started)
            if trainer.step in config.checkpoints:
                speed.save()
                _save(workspace, trainer, log, validation, held)
        export_hf(workspace, config, workspace.checkpoint(run, trainer.step), trainer.step)


def _save(
    workspace: Workspace,
    trainer: Trainer,
    log: RunLog,
    validation: ValidationLog,
    held: np.ndarray[Any, Any] | None,
) -> None:
    log.save()
    config = trainer.config
    if held is not None:
        tokens = trainer.step * config.train.batch * config.sequence_length
        validation.append(trainer.step, tokens, trainer.evaluate(torch.from_numpy(held)))
    save_checkpoint(
        workspace, config.run, trainer.step, trainer.model, trainer.optimizers, trainer.digest, config.config_sha256()
    )


def _check_data(workspace: Workspace, config: RunConfig, overlay: Overlay) -> None:
    """The data must be those that the configuration names."""
    facts = corpus_facts(workspace)
    names = {"tokens_sha256": "corpus", "tokenizer_sha256": "tokenizer"}
    for key, what in names.items():
        if facts[key] != getattr(config, key):
            raise CostarError(
                f"run {config.run}",
                found=f"another {what} than the one it was planned with",
                expected=getattr(config, key)[:12],
                mend="run `costar train` on the suite, which plans the run anew",
            )
    if sha256_file(workspace.corpus / "tokenizer.json") != config.tokenizer_sha256:
        raise CostarError(
            str(workspace.corpus / "tokenizer.json"),
            found="another tokenizer than the one the corpus was built with",
            expected=config.tokenizer_sha256[:12],
            mend="put it back, or run `costar corpus` again",
        )
    small = overlay.store.tokens.nbytes <= HASHED_AT_ONCE
    for name in changed_files(workspace.corpus, "tokens") if small else []:
        raise CostarError(
            str(workspace.corpus / name),
            found="other bytes than those that were built",
            expected=config.tokens_sha256[:12],
            mend="run `costar corpus` again",
        )
    if overlay.edits.sha256() != config.overlay_sha256:
        raise CostarError(
            f"run {config.run}",
            found="other exposures than those it was planned with",
            expected=config.overlay_sha256[:12],
            mend="run `costar train` on the suite, which plans the run anew",
        )


def _start(workspace: Workspace, trainer: Trainer, remark: Remark) -> None:
    """Bring a trainer to the last good state, and record what is promised about its bits."""
    config = trainer.config
    earlier: dict[str, Any] | None = None
    for step in reversed(finished_steps(workspace, config.run)):
        folder = workspace.checkpoint(config.run, step)
        if changed_files(folder):
            remark(f"{config.run}: checkpoint at step {step} is damaged, going on from the one before")
            continue
        trainer.load(folder, config.config_sha256())
        earlier = _read_identity(workspace, config.run)
        break
    if trainer.step == 0 and config.parent_run and config.branch_step:
        owner, folder = locate_checkpoint(workspace, config, config.branch_step)
        trainer.load(folder, None)
        earlier = _read_identity(workspace, owner)
    identity = trainer.identity()
    promise = REPEATABLE
    if earlier is not None and (earlier["identity"] != identity or earlier["determinism"] != REPEATABLE):
        changed = [key for key in identity if earlier["identity"].get(key) != identity[key]]
        promise = DATA_EXACT
        remark(
            f"{config.run}: continues under another {', '.join(changed) or 'history'}: data-exact, no longer repeatable"
        )
    if identity["device"] != "cpu":
        promise = DATA_EXACT
    write_json(workspace.run(config.run) / "identity.json", {"determinism": promise, "identity": identity})


def _read_identity(workspace: Workspace, run: str) -> dict[str, Any] | None:
    path = workspace.run(run) / "identity.json"
    return read_facts(path, ["identity", "determinism"], mend="remove it") if path.is_file() else None
