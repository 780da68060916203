"""Submissions: a folder with `submission.json` and what was found out about a pair, read and checked before any grading.

    submission.json        {"format": 1, "release_id": …, "task": …, "run": …, "name": …}
    membership             "tier"; scores.parquet, .csv or .jsonl: record_id, score (higher: more likely a member)
    extraction             "prefix" (tokens); generations.parquet, .csv or .jsonl: record_id, text, and, as wished, queries
    unlearning             model/ as transformers saves it; forget.txt, an id a line, or nothing for the default set

`perturbations` names what a submission is about; without it, all of the pair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import CostarError, nearest, shorten
from ..core.hashing import sha256_file
from .released import Released

FILE = "submission.json"
TASKS = ("membership", "extraction", "unlearning")
TIERS = ("plain", "reference", "oracle", "draws")
KEYS = {"format": int, "release_id": str, "task": str, "run": str, "name": str}
MORE = {"perturbations": list, "tier": str, "prefix": int, "notes": str}
OF_TASK = {"tier": "membership", "prefix": "extraction"}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a submission says of itself; its files are read by the task's own function."""

    folder: Path
    release_id: str
    task: str
    run: str
    name: str
    perturbations: tuple[str, ...] = ()
    tier: str = "plain"
    prefix: int | None = None
    notes: str = ""

    @property
    def place(self) -> str:
        return str(self.folder / FILE)


def read_submission(folder: Path) -> Submission:
    """`submission.json` of a folder.

    Raises:
        CostarError: there is none, or a key is missing, unknown, of another type or of another task.
    """
    path = folder / FILE
    example = '{"format": 1, "release_id": "…", "task": "membership", "run": "…", "name": "…"}'
    mend = "write it as docs/use-a-release.md shows"
    _refuse_links(folder)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else shorten(error)
        raise CostarError(str(path), found=found, expected=example, mend=mend) from None
    if not isinstance(facts, dict):
        raise CostarError(str(path), found=shorten(repr(facts)), expected=example, mend=mend)
    _check_keys(path, facts)
    if facts["format"] != 1:
        raise CostarError(f"{path}, format", found=str(facts["format"]), expected="1", mend="update costar")
    _one_of(path, "task", facts["task"], TASKS)
    for key, task in OF_TASK.items():
        if key in facts and facts["task"] != task:
            raise CostarError(
                f"{path}, {key}",
                found=f"a key of {task} in a submission for {facts['task']}",
                expected="only keys of its task",
                mend="take it out, or correct the task",
            )
    _one_of(path, "tier", facts.get("tier", "plain"), TIERS)
    if not all(isinstance(name, str) for name in facts.get("perturbations", [])):
        raise CostarError(
            f"{path}, perturbations",
            found=shorten(facts["perturbations"]),
            expected="names of perturbations",
            mend="correct them",
        )
    given = {key: value for key, value in facts.items() if key != "format"}
    return Submission(folder=folder, **given | {"perturbations": tuple(facts.get("perturbations", ()))})


def _refuse_links(folder: Path) -> None:
    """Refuse links: who grades what others send would read, and hash, files of their own."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise CostarError(
                str(path), found="a link", expected="files of the submission itself", mend="put the file in its place"
            )


def _check_keys(path: Path, facts: Mapping[str, Any]) -> None:
    for key, kind in (KEYS | MORE).items():
        if key not in facts and key in KEYS:
            raise CostarError(f"{path}, {key}", found="nothing", expected=f"the key {key!r}", mend="add it")
        if key in facts and (not isinstance(facts[key], kind) or isinstance(facts[key], bool)):
            names = {int: "a whole number", str: "a text", list: "a list of names"}
            raise CostarError(
                f"{path}, {key}", found=shorten(repr(facts[key])), expected=names[kind], mend="correct it"
            )
    unknown = [key for key in facts if key not in KEYS | MORE]
    if unknown:
        known = [*KEYS, *MORE]
        raise CostarError(
            str(path),
            found=f"unknown key {unknown[0]!r}",
            expected=f"of {', '.join(known)}",
            mend=f"correct or remove it{nearest(unknown[0], known)}",
        )


def _one_of(path: Path, key: str, found: str, known: Sequence[str]) -> None:
    if found not in known:
        raise CostarError(
            f"{path}, {key}",
            found=found,
            expected=f"one of {', '.join(known)}",
            mend=f"correct it{nearest(found, known)}",
        )


def check_release(submission: Submission, facts: Mapping[str, Any]) -> None:
    """Refuse a submission to another release. One to the blind release counts when that is revealed.

    Raises:
        CostarError: the ids differ.
    """
    known = [facts["release_id"], (facts["withheld"] or {}).get("release_id")]
    if submission.release_id not in known:
        raise CostarError(
            f"{submission.place}, release_id",
            found=submission.release_id,
            expected=f"{facts['release_id']}, as release.json has it",
            mend="grade it against the release that it was made with, or correct the id",
        )


def graded_records(submission: Submission, released: Released) -> dict[str, str]:
    """Record → perturbation of what a submission is about.

    Raises:
        CostarError: it names a perturbation that the pair does not have.
    """
    known = released.perturbations()
    for name in submission.perturbations:
        if name not in known:
            raise CostarError(
                f"{submission.place}, perturbations",
                found=name,
                expected=f"of {', '.join(known)}, which {submission.run} has",
                mend=f"correct it{nearest(name, known)}",
            )
    wanted = submission.perturbations or known
    return {record: name for record, name in released.column("perturbation").items() if name in wanted}


def files_sha256(submission: Submission) -> dict[str, str]:
    """File → hash of what was submitted, without the grades."""
    paths = sorted(path for path in submission.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = {str(path.relative_to(submission.folder)): path for path in paths}
    return {name: sha256_file(path) for name, path in names.items() if not name.startswith("grades.")}
