"""Training one run: from its last checkpoint, from its parent's, or from its start, to its last step."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from ..core.errors import CostarError
from ..core.hashing import sha256_file
from ..core.machine import Layout
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
from .checkpoint import damaged_files, finished_steps, read_saved, require_config, require_undamaged
from .config import RunConfig, read_config
from .export import export_hf
from .identity import DATA_EXACT, pick_device, promise_of
from .log import RunLog, Speed
from .saving import Saver
from .trainer import Pending, Trainer
from .world import World

SAVE, STOP = 1, 2  # what a process asks of all at the end of a step
BEHIND = 1  # steps that a GPU is ahead of the log, so that it never waits for a value to be read back

Remark = Callable[[str], None]


class Interrupted(Exception):
    """The process was asked to end; what it had trained is saved, and the same command goes on from there."""


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


def train_run(
    workspace: Workspace,
    run: str,
    *,
    layout: Layout | None = None,
    world: World | None = None,
    stop: int | None = None,
    remark: Remark = lambda text: None,
) -> None:
    """Train a run whose `config.json` is written; continues where earlier processes stopped. All processes of `world`
    call this together. `stop`: end after the checkpoint of that step.

    Raises:
        CostarError: data or a checkpoint is damaged, belongs to something else, or another process trains this run.
        Interrupted: SIGTERM or SIGUSR2 came; the state was saved.
    """
    world = world or World(device=pick_device())
    if not world.is_first:
        _train(workspace, run, layout or Layout(), world, stop, remark=lambda text: None)
        return
    with output_lock(workspace.run(run), f"train {run}"):
        _train(workspace, run, layout or Layout(), world, stop, remark=remark)


def _train(workspace: Workspace, run: str, layout: Layout, world: World, stop: int | None, *, remark: Remark) -> None:
    config = read_config(workspace, run)
    overlay = open_overlay(
        workspace, config.arm, config.draw, seed=config.seed, length=config.sequence_length, eos=config.eos_id
    )
    if world.is_first:
        _check_data(workspace, config, overlay)
    if is_finished(workspace, config):
        if world.is_first:
            _complete(workspace, config)
        return
    trainer = Trainer(config, overlay, layout, world)
    with _Signals() as signals:
        _start(workspace, trainer, remark)
        _Session(workspace, trainer, signals, min(stop or config.train.steps, config.train.steps)).train()
    if world.is_first and trainer.step == config.train.steps:
        export_hf(workspace, config, workspace.checkpoint(run, trainer.step), trainer.step)


def _complete(workspace: Workspace, config: RunConfig) -> None:
    """What a finished run may still lack: a log table, its identity, its export."""
    folder = workspace.run(config.run)
    owner, last = locate_checkpoint(workspace, config, config.train.steps)
    if owner == config.run and not (folder / "log" / "log.parquet").is_file():
        RunLog.open(folder / "log", config.train.steps).save()
    if owner != config.run:
        write_json(folder / "identity.json", _read_identity(workspace, owner))
    export_hf(workspace, config, last, config.train.steps)


class _Session:
    """One process' stretch of a run: steps, the log, checkpoints."""

    def __init__(self, workspace: Workspace, trainer: Trainer, signals: _Signals, last: int):
        self.trainer, self.signals, self.last = trainer, signals, last
        self.config, self.world = trainer.config, trainer.world
        self.kept = {*self.config.checkpoints, last}
        on_gpu = self.world.device.type == "cuda"
        self.behind = BEHIND if on_gpu else 0
        self.saver = Saver(workspace, self.config.run, trainer.engine, kept=self.kept, background=on_gpu)
        self.waiting: deque[Pending] = deque()
        folder = workspace.run(self.config.run)
        self.log = RunLog.open(folder / "log", trainer.step) if self.world.is_first else None
        self.speed = Speed(folder / "speed", self.config.run)

    def train(self) -> None:
        """Update until the last step, which has a checkpoint.

        Raises:
            Interrupted: a signal came; the state was saved.
        """
        trainer = self.trainer
        if trainer.step == 0 and 0 in self.kept:
            self._save()
        gc.collect()
        gc.freeze()  # modules and weights are not looked through again
        while trainer.step < self.last:
            started = time.perf_counter()
            self.waiting.append(trainer.advance(self._wish()))
            self.signals.trained = True
            asked = 0
            for flag in self.waiting[-1].flags:
                asked |= flag
            self._settle(self.behind)
            if self.world.is_first:
                tokens = self.config.train.batch * self.config.sequence_length
                self.speed.add(trainer.step - 1, time.perf_counter() - started, tokens)
            if trainer.step in self.kept or asked:
                self._save()
            if asked & STOP and trainer.step < self.last:
                self.saver.wait()
                raise Interrupted
        self.saver.wait()

    def _wish(self) -> int:
        """What this process asks of all after the next step."""
        minutes = self.trainer.layout.save_minutes
        due = self.world.is_first and minutes and time.monotonic() - self.saver.written > minutes * 60
        return (SAVE if due else 0) | (STOP if self.signals.came else 0)

    def _settle(self, behind: int) -> None:
        """Write the rows of the log of all but the newest steps."""
        while len(self.waiting) > behind:
            row = self.waiting.popleft().row(self.config)
            if self.log is not None:
                self.log.append(row)

    def _save(self) -> None:
        self._settle(0)
        if self.log is not None:
            self.log.save()
            self.speed.save()
        self.saver.save(self.trainer.step, self.trainer.digest, self.config.config_sha256())


class _Signals:
    """SIGTERM and SIGUSR2 end a run after its next step, with a checkpoint; before its first step, at once: the model
    may be compiling, and nothing would be lost.
    """

    def __init__(self) -> None:
        self.came, self.trained = False, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in (signal.SIGTERM, signal.SIGUSR2)}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if not self.trained:
            raise Interrupted


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
    config, world = trainer.config, trainer.world
    earlier: dict[str, Any] | None = None
    for step in reversed(finished_steps(workspace, config.run)):
        folder = workspace.checkpoint(config.run, step)
        if damaged_files(folder, world):
            remark(f"{config.run}: checkpoint at step {step} is damaged, going on from the one before")
            continue
        require_config(folder, config.config_sha256())
        trainer.load(folder)
        earlier = _read_identity(workspace, config.run)
        break
    if trainer.step == 0 and config.parent_run and config.branch_step:
        owner, folder = locate_checkpoint(workspace, config, config.branch_step)
        require_undamaged(folder, world)
        trainer.load(folder)
        earlier = _read_identity(workspace, owner)
    identity = trainer.identity()
    promise = promise_of(trainer.layout, world.device)
    if earlier is not None and (earlier["identity"] != identity or earlier["determinism"] == DATA_EXACT):
        changed = [
            key for key in {**identity, **earlier["identity"]} if earlier["identity"].get(key) != identity.get(key)
        ]
        if promise != DATA_EXACT:
            remark(
                f"{config.run}: continues under another {', '.join(changed) or 'history'}: data-exact, no longer {promise}"
            )
        promise = DATA_EXACT
    if world.is_first:
        write_json(workspace.run(config.run) / "identity.json", {"determinism": promise, "identity": identity})


def _read_identity(workspace: Workspace, run: str) -> dict[str, Any] | None:
    path = workspace.run(run) / "identity.json"
    return read_facts(path, ["identity", "determinism"], mend="remove it") if path.is_file() else None
