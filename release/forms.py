"""`costar release --export FORM`: what an arm can be written as, for other tools."""

from __future__ import annotations

from pathlib import Path

from ..core.design import Suite
from ..core.errors import CostarError, nearest
from ..core.workspace import Workspace
from .hf import export_runs
from .megatron import export_arm

FORMS = {"megatron": ("parts",), "hf": ("model", "step")}  # with the options that only this form has


def write_export(
    suite: Suite,
    workspace: Workspace,
    form: str,
    *,
    arm: str | None,
    model: str | None,
    draw: int,
    step: int | None,
    parts: int | None,
) -> list[Path]:
    """Write an arm in the form that a user names: "megatron" its data, "hf" its models. The folders.

    Raises:
        CostarError: an unknown form or arm, an option of another form, or what the form refuses.
    """
    if form not in FORMS:
        mend = f"correct it{nearest(form, FORMS)}"
        raise CostarError("--export", found=form, expected=" or ".join(FORMS), mend=mend)
    given = {"model": model, "step": step, "parts": parts}
    for option, value in given.items():
        if value is not None and option not in FORMS[form]:
            owner = next(name for name, options in FORMS.items() if option in options)
            found = f"--{option} with --export {form}"
            raise CostarError(
                "--export", found=found, expected=f"--export {owner}, or no --{option}", mend="correct it"
            )
    if arm is None or arm not in suite.arms:
        found = "no arm" if arm is None else arm
        mend = "add --arm" if arm is None else f"correct it{nearest(arm, suite.arms)}"
        raise CostarError("--export", found=found, expected=f"one of {', '.join(suite.arms)}", mend=mend)
    if form == "hf":
        return export_runs(suite, workspace, arm, model=model, draw=draw, step=step)
    return [export_arm(suite, workspace, arm, draw, parts_mb=parts)]
