"""Trained runs and the edits of a suite: nothing that was trained is ever overwritten (invariant 10)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.design import RunName, Suite
from ..core.errors import StaleRuns, shorten
from ..core.workspace import Workspace, output_lock, read_facts
from .config import begun_runs


@dataclass(frozen=True)
class Stale:
    """A trained run that an edit of the suite touches, and the keys that changed."""

    run: str
    keys: tuple[str, ...]


def stale_runs(suite: Suite, workspace: Workspace) -> list[Stale]:
    """Begun runs of this suite whose relevant keys differ from the suite file as it is now (invariant 10)."""
    found = []
    for run, config in begun_runs(workspace).items():
        name = RunName.parse(run)
        if name.arm not in suite.arms:
            continue
        now = suite.relevant_spec(name)
        keys = sorted(
            key for key, value in config.spec.items() if now.get(key) != value
        )  # keys of a later version are new
        if keys:
            found.append(Stale(run, tuple(keys)))
    stale = {each.run for each in found}
    heirs = descendants(workspace, stale) - stale
    return found + [Stale(run, ("its parent run",)) for run in sorted(heirs)]


def descendants(workspace: Workspace, runs: Collection[str]) -> set[str]:
    """These runs and every run that branches from one of them or starts from its weights, at whatever distance."""
    configs = begun_runs(workspace)
    found = set(runs)
    while grown := {r for r, c in configs.items() if c.parent_run in found or c.start.parent in found} - found:
        found |= grown
    return found


def refuse_stale(suite: Suite, workspace: Workspace) -> None:
    """Stop before anything is built when the edit of a suite would make a trained run stale."""
    stale = stale_runs(suite, workspace)
    if stale:
        raise stale_error(suite, stale)


def stale_error(suite: Suite, stale: Sequence[Stale]) -> StaleRuns:
    """The refusal that lists the changed keys and the runs they touch."""
    keys = sorted({key for each in stale for key in each.keys})
    found = f"changed since training: {shorten(', '.join(keys), 300)}"
    return StaleRuns(f"{suite.path}", found=found, runs=[each.run for each in stale])


def archive_runs(workspace: Workspace, runs: Sequence[str]) -> list[Path]:
    """Move runs, their descendants and what was measured on them to `archive/<run>-<configuration>/`."""
    moved = []
    for run in sorted(descendants(workspace, runs)):
        folder = workspace.run(run)
        with output_lock(folder, f"archive {run}"):
            sha = read_facts(folder / "config.json", ["config_sha256"], mend="remove the folder")["config_sha256"][:8]
            target = workspace.root / "archive" / f"{run}-{sha}"
            number = 1
            while target.exists():
                number += 1
                target = workspace.root / "archive" / f"{run}-{sha}-{number}"
            target.mkdir(parents=True)
            places = {
                "run": folder,
                "ledger": workspace.eval / "ledger" / f"run={run}",
                "generated": workspace.eval / "generated" / f"run={run}",
                "scores": workspace.scores(run),
            }
            for name, place in places.items():
                if place.exists():
                    place.rename(target / name)
        moved.append(target)
    return moved


def protected_tokens(workspace: Workspace) -> list[tuple[str, str]]:
    """(run, hash of the tokens it reads) of every begun run."""
    return [(run, config.tokens_sha256) for run, config in begun_runs(workspace).items()]


def protected_texts(workspace: Workspace) -> dict[str, list[str]]:
    """The perturbations that every begun run reads."""
    return {run: c.spec[f"arm.{c.arm}.perturbations"] for run, c in begun_runs(workspace).items()}


def protected_edits(workspace: Workspace) -> list[tuple[str, str, int, str]]:
    """(run, arm, draw, hash of the edits it reads) of every begun run."""
    return [(run, c.arm, c.draw, c.overlay_sha256) for run, c in begun_runs(workspace).items()]
