"""The verbs of releases, as `cli.py` takes them: pack and export."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from .arguments import ArmOption, ModelOption, SuiteArgument
from .checks import reading
from .console import stage_line
from .session import Session
from .workspace import output_lock


def release(
    suite: SuiteArgument = "demo",
    export: Annotated[str | None, typer.Option("--export", help="megatron: an arm's data; hf: its models")] = None,
    arm: ArmOption = None,
    model: ModelOption = None,
    draw: Annotated[int, typer.Option("--draw", help="the draw to export")] = 0,
    step: Annotated[int | None, typer.Option("--step", help="hf: this checkpoint, not the last")] = None,
    parts: Annotated[int | None, typer.Option("--parts", help="also as zstd parts of so many MiB")] = None,
) -> None:
    """Pack pairs, data and checksums; or write one arm's data or models for other tools."""
    session = reading(suite)
    if export is None:
        pack(session)
        return
    from ..release.export import write_export

    started, design, place = time.monotonic(), session.suite, session.workspace
    for path in write_export(design, place, export, arm=arm, model=model, draw=draw, step=step, parts=parts):
        stage_line("export", str(path), time.monotonic() - started)


def pack(session: Session) -> None:
    from ..release.pack import write_release

    started = time.monotonic()
    with output_lock(session.workspace.release, "release"):
        pairs = write_release(session.suite, session.workspace)
    text = f"{session.workspace.release} · {pairs} pair{'s' if pairs != 1 else ''}, checked by loading"
    stage_line("release", text, time.monotonic() - started)
