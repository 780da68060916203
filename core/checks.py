"""Sessions of the command line, opened with the checks that a verb needs: what can be refused is, before any work."""

from __future__ import annotations

from collections.abc import Callable

from . import console
from .errors import CostarError, StaleRuns
from .session import Session, open_session

AGAIN = "run the stage that wrote the file again: it replaces what is damaged; a damaged checkpoint: remove its folder"
VERIFIED = "verified.txt"  # the verdict that the report shows; gone as soon as anything may have changed


def building(name: str, archive: bool) -> Session:
    """A session that may write: what can be wrong with the suite is found here, before any work."""
    from ..train.stale import refuse_stale

    session = open_session(name)
    check(session)
    archiving(session, archive, lambda session: refuse_stale(session.suite, session.workspace))
    session.save_suite()
    (session.workspace.root / VERIFIED).unlink(missing_ok=True)
    return session


def reading(name: str) -> Session:
    """A session for verbs that describe runs: refused when the suite file no longer is what they were trained with."""
    from ..train.stale import refuse_stale

    session = open_session(name)
    refuse_stale(session.suite, session.workspace)
    return session


def archiving(session: Session, archive: bool, work: Callable[[Session], None]) -> None:
    """Do some work; with --archive, put runs aside that it would make stale, and do it again."""
    from ..train.stale import archive_runs

    while True:
        try:
            return work(session)
        except StaleRuns as stale:
            if not archive:
                raise
            for path in archive_runs(session.workspace, stale.runs):
                console.say(f"put aside  {path}")


def check(session: Session) -> list[str]:
    """Everything about a suite that can be checked without data; the warnings."""
    from ..corpus.build import check_source
    from ..eval.loading import check_probes
    from ..insertion.placement import check_suite
    from ..insertion.records import check_origins
    from ..train.config import check_inits

    check_source(session.suite, session.folders)
    check_probes(session.suite)
    notes = check_origins(session.suite, session.folders)
    notes += check_inits(session.suite, session.workspace, session.folders)
    return notes + check_suite(session.suite)


def refute(
    problems: list[str], expected: str = "files that agree with each other and with the suite", mend: str = AGAIN
) -> None:
    """End a verification that found problems, with a list of them."""
    if problems:
        shown = "\n".join(f"  · {problem}" for problem in problems[:20])
        more = f"\n  · and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CostarError(
            "verify",
            found=f"{len(problems)} problem{'s' if len(problems) > 1 else ''}\n{shown}{more}",
            expected=expected,
            mend=mend,
            exit_code=1,
        )
