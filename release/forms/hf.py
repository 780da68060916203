"""Any checkpoint of a run as a folder that `transformers` loads, written when it is first asked for."""

from __future__ import annotations

import errno
from pathlib import Path

from ...core.design import RunName, Suite
from ...core.errors import CostarError
from ...core.workspace import Workspace, output_lock
from ...manifests.lineage import checkpoint_rows, read_configs
from ...train.config import read_config
from ...train.export import export_hf, export_path
from ...train.loop import locate_checkpoint
from ..chosen import Chosen

OPTIONS = ("model", "step")


def export_checkpoint(workspace: Workspace, run: str, step: int | None = None) -> Path:
    """The export of a run's checkpoint (default: its last step), also where a run it branched from wrote it.

    Raises:
        CostarError: no such run, no finished checkpoint at that step, a damaged one, or a folder that cannot be written.
    """
    config = read_config(workspace, run)
    steps = [row[1] for row in checkpoint_rows(workspace, read_configs(workspace)) if row[0] == run]
    wanted = config.train.steps if step is None else step
    if wanted not in steps:
        raise CostarError(
            f"run {run}",
            found=f"no finished checkpoint at step {wanted}",
            expected=f"one of the steps {', '.join(map(str, steps)) or '(none yet)'}",
            mend="name one of them, or train the run to that step",
        )
    _, checkpoint = locate_checkpoint(workspace, config, wanted)
    folder = export_path(workspace, run, wanted)
    try:
        with output_lock(folder, f"export {run} step {wanted}"):
            return export_hf(workspace, config, checkpoint, wanted)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise CostarError(
            str(error.filename or folder),
            found="no right to write here, and this step is not exported yet",
            expected=f"a writable folder for the export of {run} at step {wanted}",
            mend="change its mode, copy the suite, or export the step where the suite was built: costar release … --export hf",
            exit_code=1,
        ) from None


def write(suite: Suite, workspace: Workspace, chosen: Chosen) -> list[Path]:
    """The exports of an arm's runs of one draw: of one model, or of all that the arm has.

    Raises:
        CostarError: the arm has no such model, or what `export_checkpoint` refuses.
    """
    design = suite.arms[chosen.arm]
    begun = [RunName.parse(name.parent.name) for name in sorted(workspace.runs.glob("*/config.json"))]
    models = sorted({*design.models, *(run.model for run in begun if run.arm == chosen.arm)})
    if chosen.model is not None and chosen.model not in models:
        raise CostarError("--model", found=chosen.model, expected=f"one of {', '.join(models)}", mend="correct it")
    wanted = [chosen.model] if chosen.model else design.models
    names = [RunName(arm=chosen.arm, model=each, draw=chosen.draw) for each in wanted]
    return [export_checkpoint(workspace, str(name), chosen.step) for name in names]
