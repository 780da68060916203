"""`costar release --export FORM`: what an arm can be written as, for other tools. A form is a file in `forms/`.

A form has `OPTIONS`, the options that it reads beside arm and draw, and `write(suite, workspace, chosen)`, which returns the
folders it wrote.
"""

from __future__ import annotations

from pathlib import Path

from ..core.design import Suite
from ..core.errors import CostarError, nearest
from ..core.plugins import load_plugin, plugin_names
from ..core.workspace import Workspace
from .chosen import Chosen
from .sealed import refuse_sealed

PACKAGE = "costar.release.forms"


def write_export(
    suite: Suite,
    workspace: Workspace,
    form: str,
    *,
    arm: str | None = None,
    model: str | None = None,
    draw: int = 0,
    step: int | None = None,
    parts: int | None = None,
) -> list[Path]:
    """Write an arm in the form that a user names, by default the only arm that the suite releases. The folders.

    Raises:
        CostarError: an unknown form, arm or draw, an option of another form, or what the form refuses.
    """
    module = load_plugin(PACKAGE, form, place="--export")
    if form != "hf":  # a model by itself; all others write who was inserted
        refuse_sealed(workspace, f"--export {form}")
    for option, value in {"model": model, "step": step, "parts": parts}.items():
        if value is not None and option not in module.OPTIONS:
            owners = [name for name in plugin_names(PACKAGE) if option in load_plugin(PACKAGE, name, place="").OPTIONS]
            raise CostarError(
                "--export",
                found=f"--{option} with --export {form}",
                expected=f"--export {' or '.join(owners)}, or no --{option}",
                mend="correct it",
            )
    if arm is None and len(suite.release.arms) == 1:
        arm = suite.release.arms[0]
    if arm is None or arm not in suite.arms:
        found = "no arm" if arm is None else arm
        mend = "add --arm" if arm is None else f"correct it{nearest(arm, suite.arms)}"
        raise CostarError("--export", found=found, expected=f"one of {', '.join(suite.arms)}", mend=mend)
    if not 0 <= draw < suite.arms[arm].draws:
        expected = f"0 to {suite.arms[arm].draws - 1}"
        raise CostarError("--draw", found=str(draw), expected=expected, mend="correct it")
    folders: list[Path] = module.write(
        suite, workspace, Chosen(arm=arm, draw=draw, model=model, step=step, parts=parts)
    )
    return folders
