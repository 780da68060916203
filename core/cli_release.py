"""The verbs of releases, as `cli.py` takes them: pack, export, push, reveal, score, verify."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from . import console
from .arguments import ArmOption, ModelOption, SuiteArgument
from .checks import reading, refute
from .console import stage_line
from .errors import CostarError
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
    draw: Annotated[int | None, typer.Option("--draw", help="the draw to export, by default 0")] = None,
    step: Annotated[int | None, typer.Option("--step", help="hf: this checkpoint, not the last")] = None,
    parts: Annotated[int | None, typer.Option("--parts", help="also as zstd parts of so many MiB")] = None,
    push: Annotated[
        str | None, typer.Option("--push", help="upload the packed release to this account of the Hub")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="with --push: write what it would upload, and stop")
    ] = False,
    blind: Annotated[bool, typer.Option("--blind", help="pack without what tells which record was inserted")] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="publish the labels that a blind release withheld")] = False,
) -> None:
    """Pack pairs, data and checksums; push them to the Hub; or write one arm's data or models for other tools."""
    chosen = {"--arm": arm, "--model": model, "--draw": draw, "--step": step, "--parts": parts}
    _refuse_together({"--export": export, "--push": push, "--blind": blind or None, "--reveal": reveal or None})
    if export is None:
        _refuse_alone("--export", chosen)
    if push is None:
        _refuse_alone("--push", {"--dry-run": dry_run or None})
    session = reading(suite)
    if reveal:
        _reveal(session)
        return
    if push is not None:
        _push(session, push, dry_run)
        return
    if export is None:
        pack(session, blind=blind)
        return
    from ..release.export import write_export

    started, design, place = time.monotonic(), session.suite, session.workspace
    for path in write_export(design, place, export, arm=arm, model=model, draw=draw or 0, step=step, parts=parts):
        stage_line("export", str(path), time.monotonic() - started)


def _refuse_together(options: dict[str, Any]) -> None:
    """Of these options one call takes one."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise CostarError(
            " ".join(given), found=f"{len(given)} things to do", expected="one of them", mend="run a command for each"
        )


def _refuse_alone(owner: str, options: dict[str, Any]) -> None:
    """What is read only with another option is not taken without it."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise CostarError(
            given[0], found=f"no {owner}", expected=f"{given[0]} beside {owner}", mend=f"add {owner}, or leave it out"
        )


def pack(session: Session, *, blind: bool = False) -> None:
    from ..release.pack import write_release

    started = time.monotonic()
    with output_lock(session.workspace.release, "release"):
        pairs = write_release(session.suite, session.workspace, blind=blind)
    kind = f"pair{'s' if pairs != 1 else ''}{', blind' if blind else ''}"
    text = f"{session.workspace.release} · {pairs} {kind}, checked by loading"
    stage_line("release", text, time.monotonic() - started)


def _push(session: Session, organization: str, dry_run: bool) -> None:
    from ..release.hub import push_release
    from ..release.pack import require_packed

    started = time.monotonic()
    require_packed(session.suite, session.workspace)
    with console.progress("push") as update:
        done = push_release(session.workspace.release, organization, dry_run=dry_run, update=update)
    text = f"{len(done.repositories)} repositories, {done.revisions} revisions, {done.files:,} files"
    if dry_run:
        stage_line("push", f"{text} · nothing sent, the tree is in {done.folder}", time.monotonic() - started)
        return
    stage_line("push", f"{text}, {done.uploaded:,} sent · all read again", time.monotonic() - started)
    console.say(f"           {done.collection}")
    if done.gated:
        console.say(f"           access by request: {', '.join(done.gated)}")
    console.say(
        "           new repositories are private; to publish, set each to public in its settings on the Hub, the collection last"
    )


def is_release(name: str) -> bool:
    """Whether an argument is the folder of a release rather than a suite."""
    from ..release.facts import is_release

    return is_release(Path(name))


def verify(name: str, options: dict[str, Any]) -> None:
    """Prove a release from its files alone."""
    from ..release.verify import verify_release

    given = [option for option, value in options.items() if value]
    if given:
        raise CostarError(
            given[0], found="a release", expected="a suite: only there is training to repeat", mend="leave it out"
        )
    started = time.monotonic()
    with console.progress("verify") as update:
        proof = verify_release(Path(name), update)
    refute(
        proof.problems,
        "a release as it was packed",
        "fetch what is damaged again, or pack it again: costar release SUITE",
    )
    stage_line("verify", proof.told(), time.monotonic() - started)


def _reveal(session: Session) -> None:
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
