"""Training one run: from its last checkpoint, from its parent's, or from its start, to its last step."""

from __future__ import annotations

from pathlib import Path
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
from .branch import beginning, confirm_branch
from .checkpoint import damaged_files, finished_steps, read_saved, require_config
from .config import RunConfig, read_config
from .export import export_hf
from .identity import DATA_EXACT, pick_device, promise_of
from .log import RunLog, log_is_whole, require_log
from .session import Remark, Session, Signals
from .starts import start_weights
from .trainer import Trainer
from .world import World


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
    if is_finished(workspace, config) and not _is_damaged(workspace, config, world):
        if world.is_first:
            _complete(workspace, config)
        return
    with Signals() as signals:
        trainer = Trainer(config, overlay, layout, world)
        _start(workspace, trainer, remark)
        Session(workspace, trainer, signals, min(stop or config.train.steps, config.train.steps), remark).train()
    if world.is_first and trainer.step == config.train.steps:
        export_hf(workspace, config, workspace.checkpoint(run, trainer.step), trainer.step)


def _is_damaged(workspace: Workspace, config: RunConfig, world: World) -> bool:
    """Whether a finished run's own last checkpoint changed: then it is trained again from the one before."""
    owner, last = locate_checkpoint(workspace, config, config.train.steps)
    return owner == config.run and bool(damaged_files(last, world))


def _complete(workspace: Workspace, config: RunConfig) -> None:
    """What a finished run may still lack: a log table, its identity, its export."""
    folder = workspace.run(config.run)
    owner, last = locate_checkpoint(workspace, config, config.train.steps)
    if owner == config.run and not log_is_whole(workspace, config):
        require_log(workspace, config, config.train.steps)
        RunLog.open(folder / "log", config.train.steps).save()
    if owner != config.run:
        write_json(folder / "identity.json", _read_identity(workspace, owner))
    export_hf(workspace, config, last, config.train.steps)


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
        if world.is_first:
            require_log(workspace, config, step)
        trainer.load(folder)
        earlier = _read_identity(workspace, config.run)
        break
    else:
        earlier = _start_branch(workspace, trainer)
        if trainer.step == 0 and (weights := start_weights(workspace, config, check=world.is_first)):
            trainer.begin_with(weights)
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
        facts = {"determinism": promise, "identity": identity}
        started = trainer.start_sha256 or (earlier or {}).get("start_sha256")
        facts |= {"start_sha256": started} if started else {}
        write_json(workspace.run(config.run) / "identity.json", facts)


def _start_branch(workspace: Workspace, trainer: Trainer) -> dict[str, Any] | None:
    """Take over the state of the run that this one branches from, if any; the identity it was trained under."""
    config, world = trainer.config, trainer.world
    [found, *_] = world.gather(beginning(workspace, config) if world.is_first else None)
    if found is None:
        return None
    owner, step, folder = found
    if world.is_first:
        confirm_branch(workspace, config, trainer.overlay, step)
    trainer.load(folder)
    return _read_identity(workspace, owner)


def _read_identity(workspace: Workspace, run: str) -> dict[str, Any] | None:
    path = workspace.run(run) / "identity.json"
    return read_facts(path, ["identity", "determinism"], mend="remove it") if path.is_file() else None
