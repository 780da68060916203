"""The verbs of releases, as `cli.py` takes them: pack, export, reveal and score."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .arguments import ArmOption, ModelOption, SuiteArgument
from .checks import reading
from .console import stage_line
from .session import Session
from .workspace import output_lock


def release(
    suite: SuiteArgument = "demo",
    export: Annotated[
        str | None,
        typer.Option("--export", help="an arm for: hf, lm-eval, megatron, membership, open-unlearning, overlay"),
    ] = None,
    arm: ArmOption = None,
    model: ModelOption = None,
    draw: Annotated[int, typer.Option("--draw", help="the draw to export")] = 0,
    step: Annotated[int | None, typer.Option("--step", help="hf: this checkpoint, not the last")] = None,
    parts: Annotated[int | None, typer.Option("--parts", help="also as zstd parts of so many MiB")] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="publish the labels that a blind release withheld")] = False,
) -> None:
    """Pack pairs, data and checksums; or write one arm's data or models for other tools."""
    session = reading(suite)
    if reveal:
        reveal_labels(session)
        return
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


def reveal_labels(session: Session) -> None:
    from ..release.sealed import reveal

    started = time.monotonic()
    with output_lock(session.workspace.release, "release"):
        pairs = reveal(session.suite, session.workspace)
    text = f"{session.workspace.release} · {pairs} pair{'s' if pairs != 1 else ''}, labels and their seal published"
    stage_line("release", text, time.monotonic() - started)


def score(
    submission: Annotated[Path, typer.Argument(help="a folder with submission.json")],
    release: Annotated[Path, typer.Option("--release", help="the release that it is about")],
    sealed: Annotated[
        Path | None, typer.Option("--sealed", help="the labels of a blind release, for its owner")
    ] = None,
) -> None:
    """Grade a submission for membership, extraction or unlearning against a release."""
    from ..release.grading import grade, print_grades

    started = time.monotonic()
    print_grades(grade(submission, release, sealed))
    stage_line("score", f"{submission / 'grades.json'}, grades.parquet", time.monotonic() - started)
