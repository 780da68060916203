"""Where a run's first weights come from, for the queue that waits for them and for the engine that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.design import RunName
from ..core.errors import CostarError
from ..core.workspace import Workspace, changed_files, is_whole
from .config import CHECKPOINT, RANDOM, RunConfig, config_path, read_config
from .export import export_path
from .imports import StartWeights


def start_is_ready(workspace: Workspace, config: RunConfig) -> bool:
    """Whether a run can take its first step: its parent's last weights are there, or it has no parent."""
    if config.start.parent is None:
        return True
    folder = _parent_export(workspace, config.start.parent)
    return folder is not None and is_whole(folder)


def require_starts(workspace: Workspace, configs: Sequence[RunConfig]) -> None:
    """Every parent is trained, or is among the runs that are to be trained.

    Raises:
        CostarError: a parent is neither.
    """
    planned = {config.run for config in configs}
    for config in configs:
        parent = config.start.parent
        if parent is None or parent in planned or start_is_ready(workspace, config):
            continue
        raise CostarError(
            f"run {config.run}",
            found=f"its parent {parent} is not trained",
            expected="the parent's last weights, from which it starts",
            mend=f"train it first, or as well: costar train … --arm {RunName.parse(parent).arm}",
        )


def start_weights(workspace: Workspace, config: RunConfig, *, check: bool = True) -> StartWeights | None:
    """The first weights of a run, under Hugging Face names; None where they are drawn at random.

    With `check` every byte is read and compared with what was planned: one process of a run does that, and waits for no
    other; the rest open the files only.

    Raises:
        CostarError: the parent is not trained, or the weights are no longer those that the run was planned with.
    """
    start = config.start
    if start.kind == RANDOM:
        return None
    if start.kind == CHECKPOINT:
        weights = StartWeights(Path(start.folder))
        if check and weights.sha256() != start.sha256:
            raise CostarError(
                start.folder,
                found="other weights than those the run was planned with",
                expected=start.sha256[:12],
                mend="put them back, or run `costar train` on the suite, which plans the run anew",
            )
        return weights
    assert start.parent is not None
    folder = _parent_export(workspace, start.parent)
    if folder is None or not is_whole(folder):
        require_starts(workspace, [config])
        raise AssertionError("a parent that is not ready is refused")
    found = read_config(workspace, start.parent).config_sha256()
    wrong = changed_files(folder) if check else []
    if wrong or found != start.sha256:
        raise CostarError(
            str(folder / wrong[0] if wrong else folder),
            found="damaged weights" if wrong else f"weights of another configuration ({found[:12]})",
            expected="the last weights of the parent run" if wrong else f"those of {start.sha256[:12]}",
            mend="run `costar train` on the suite, which writes or plans them anew",
        )
    return StartWeights(folder)


def _parent_export(workspace: Workspace, parent: str) -> Path | None:
    """Where the parent's last weights lie once it is trained; None before it is begun."""
    if not config_path(workspace, parent).is_file():
        return None
    return export_path(workspace, parent, read_config(workspace, parent).train.steps)
