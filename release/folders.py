"""Folders of exports: written whole or not at all, with the sums of their files; and the pair that a form compares."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.design import RunName, Suite
from ..core.errors import CostarError
from ..core.hashing import sha256_file, sha256_json
from ..core.workspace import Workspace, finish_step, is_current, output_lock, read_marker, start_step, write_text
from .chosen import Chosen
from .facts import SUMS
from .pages import room_sha256
from .sums import sums_text


def write_folder(workspace: Workspace, form: str, name: str, inputs: Any, fill: Callable[[Path], None]) -> Path:
    """`release/<form>/<name>/`, filled by `fill`; a folder that was made from these inputs is left alone.

    Raises:
        CostarError: another process writes it, or what `fill` refuses.
    """
    folder = workspace.release / form / name
    version = importlib.metadata.version("costar")
    wanted = sha256_json([version, room_sha256(), inputs])
    with output_lock(folder, f"export {form}"):
        if is_current(folder, wanted):
            return folder
        start_step(folder)
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        fill(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        write_text(folder / SUMS, sums_text({str(path.relative_to(folder)): sha256_file(path) for path in files}))
        finish_step(folder, wanted, [*files, folder / SUMS])
    return folder


def built_from(workspace: Workspace) -> list[Any]:
    """What every export follows: the records, their renderings, and who was assigned what."""
    return [read_marker(workspace.insertion, step) for step in ("records", "insert")]


def pairs_of(suite: Suite, chosen: Chosen) -> list[tuple[RunName, RunName]]:
    """The treated runs of an arm and draw with their controls: of one model, or of all that the arm has.

    Raises:
        CostarError: an arm without control, or without that model.
    """
    design = suite.arms[chosen.arm]
    if design.control is None or not design.inserted:
        treated = [arm.name for arm in suite.arms.values() if arm.control and arm.inserted]
        raise CostarError(
            "--arm",
            found=f"{chosen.arm}, which has no control" if design.inserted else f"{chosen.arm}, which inserts nothing",
            expected=f"the treated arm of a pair: {', '.join(treated) or 'the suite has none'}",
            mend="name one",
        )
    if chosen.model is not None and chosen.model not in design.models:
        raise CostarError(
            "--model", found=chosen.model, expected=f"one of {', '.join(design.models)}", mend="correct it"
        )
    models = [chosen.model] if chosen.model else design.models
    runs = [
        [RunName(arm=arm, model=model, draw=chosen.draw) for arm in (chosen.arm, design.control)] for model in models
    ]
    return [(treated, control) for treated, control in runs]


def pair_folder(suite: Suite, treated: RunName) -> str:
    """The name of a pair's folder: the arm and draw, and the model where the arm has several."""
    several = len(suite.arms[treated.arm].models) > 1
    return f"{treated.arm}.{treated.model}-d{treated.draw}" if several else f"{treated.arm}-d{treated.draw}"
