"""The rows of `costar status`: what is done, stale, missing."""

from __future__ import annotations

from collections.abc import Mapping

from .design import RunName
from .session import Session
from .workspace import read_facts, read_marker, step_of


def status_rows(
    session: Session, stale: Mapping[str, tuple[str, ...]], current: Mapping[str, bool], watched: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """(what, state, detail) of every stage and run.

    `stale` maps runs to the keys that changed since they were trained; `current` says of a stage whether it was built
    from the suite as it is; `watched` is a line on the progress of runs that are not finished.
    """
    place = session.workspace
    rows: list[tuple[str, str, str]] = []
    for what, folder, names in (
        ("corpus", place.corpus, ("documents", "tokenizer", "tokens", "occurrences")),
        ("insertion", place.insertion, ("records", "insert")),
    ):
        missing = [step for step in names if read_marker(folder, step) is None]
        state = "missing" if len(missing) == len(names) else "partial" if missing else "done"
        if state == "done" and not current[what]:
            state = "stale"
        rows.append((what, state, ", ".join(missing)))
    begun = {path.parent.name for path in place.runs.glob("*/config.json")}
    planned = [str(name) for name in session.suite.runs()]
    for run in [*planned, *sorted(begun - set(planned))]:
        markers = place.run(run).glob("checkpoints/step-*/stage.json")
        steps = sorted(step for path in markers if (step := step_of(path.parent)) is not None)
        arm = session.suite.arms.get(RunName.parse(run).arm)
        total = arm.train.steps if arm else 0
        if run in stale:
            state, detail = "stale", f"changed: {', '.join(stale[run])}"
        elif run not in begun:
            state, detail = "missing", ""
        elif arm is None:
            state, detail = "left over", "its arm is no longer in the suite"
        else:
            same = _same_as(session, run, total)
            state = "done" if total in steps or same else "begun"
            detail = f"checkpoints {', '.join(map(str, steps)) or 'none yet'} of {total} steps{watched.get(run, '')}"
            detail = f"reads the same as {same}, to its own last step {total}" if same else detail
        measured = [step for step in steps if read_marker(place.scores(run), str(step)) is not None]
        rows.append((f"run {run}", state, detail + (f" · {len(measured)} measured" if measured else "")))
    for what, path in (
        ("effects", place.eval / "stage-effects.json"),
        ("manifest", place.manifest),
        ("report", place.report / "index.html"),
        ("release", place.release / "SHA256SUMS"),
    ):
        rows.append((what, "done" if path.is_file() else "missing", ""))
    return rows


def _same_as(session: Session, run: str, total: int) -> str:
    """The finished run that a run is equal to, to its last step, or nothing."""
    config = read_facts(
        session.workspace.run(run) / "config.json", ["parent_run", "branch_step"], mend="train it again"
    )
    parent = str(config["parent_run"] or "")
    if not parent or config["branch_step"] != total:
        return ""
    finished = read_marker(session.workspace.checkpoint(parent, total)) is not None
    return parent if finished else _same_as(session, parent, total)
