"""`release.json`: what a release says of itself, read with its types checked. A folder that has it is a release."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.design import RunName
from ..core.errors import CostarError, shorten

FACTS = "release.json"
MANIFEST = "costar_manifest.json"  # in the folder of every model
SUMS = "SHA256SUMS"
VERSION = 1
PARTS = ("models", "revisions", "data")
PAIR = {"treated": str, "control": str, "arm": str, "model": str, "draw": int}
PLAIN = {
    "suite": str,
    "release_id": str,
    "blind": bool,
    "costar_version": str,
    "pairs": list,
    "revisions": dict,
    "withheld": dict,
    "extraction": dict,
}
WITHHELD = {"tables": list, "commitment": str, "revealed": bool}
EXTRACTION = {"prefixes": list, "suffix": int}
RUN = re.compile(r"[\w-]+\.[\w-]+\.d[0-9]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release on disk. `revisions` has the kept steps of each run; `pairs` have the keys of PAIR."""

    folder: Path
    suite: str
    release_id: str
    blind: bool
    pairs: tuple[dict[str, Any], ...]
    revisions: dict[str, list[int]]

    @property
    def runs(self) -> list[str]:
        return sorted({run for pair in self.pairs for run in (pair["treated"], pair["control"])})

    def twins(self, run: str) -> set[str]:
        """The runs that a run is compared with."""
        controls = {pair["control"] for pair in self.pairs if pair["treated"] == run}
        return controls | {pair["treated"] for pair in self.pairs if pair["control"] == run}

    def model_folders(self) -> list[tuple[str, int | None, Path]]:
        """Run, step (None: the last, on `main`) and folder of everything that can be loaded as a model."""
        found: list[tuple[str, int | None, Path]] = []
        for run in self.runs:
            found.append((run, None, self.folder / "models" / run))
            steps = self.revisions.get(run, [])
            found += [(run, step, self.folder / "revisions" / run / f"step{step}") for step in steps]
        return found


def is_release(folder: Path) -> bool:
    """Whether a folder is a release, also one that has lost its facts."""
    return (folder / FACTS).is_file() or all((folder / name).exists() for name in (SUMS, "models", "data"))


def read_release(folder: Path) -> Release:
    """The facts of a release.

    Raises:
        CostarError: they are missing, damaged, of another version, or of a wrong type.
    """
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _wrong(path, f"no facts ({shorten(error)})", "a finished release") from None
    if not isinstance(facts, dict):
        raise _wrong(path, f"{kind_of(facts)}", "an object")
    if facts.get("version") != VERSION or isinstance(facts.get("version"), bool):
        raise _wrong(path, f"version {facts.get('version')!r}", f"version {VERSION}")
    problems = wrong_types(facts, PLAIN)
    if not problems:
        for number, pair in enumerate(facts["pairs"]):
            inside = wrong_types(pair, PAIR) if isinstance(pair, dict) else [f"is {kind_of(pair)}, not an object"]
            problems += [f"pairs[{number}] {text}" for text in inside]
        for run, steps in facts["revisions"].items():
            if not isinstance(steps, list) or not all(type(step) is int for step in steps):
                problems.append(f"revisions of {run} are {shorten(steps, 40)}, not a list of whole numbers")
        extraction, withheld = facts["extraction"], facts["withheld"]
        problems += [f"extraction {text}" for text in wrong_types(extraction, EXTRACTION)]
        prefixes = extraction.get("prefixes")
        if isinstance(prefixes, list) and not all(type(prefix) is int for prefix in prefixes):
            problems.append(f"extraction prefixes are {shorten(prefixes, 40)}, not whole numbers")
        problems += [f"withheld {text}" for text in (wrong_types(withheld, WITHHELD) if withheld else ())]
        if not re.fullmatch(r"[0-9a-f]{64}", facts["release_id"]):
            problems.append("release_id is not a sha256")
    if problems:
        raise _wrong(path, "; ".join(problems), "the facts that `costar release` writes")
    names = [pair[key] for pair in facts["pairs"] for key in ("treated", "control")]
    if not names or not all(RUN.fullmatch(name) for name in [*names, *facts["revisions"]]):
        raise _wrong(path, "no pairs, or names that are not those of runs", "names such as perturbed.tiny.d0")
    for pair in facts["pairs"]:
        treated, control = RunName.parse(pair["treated"]), RunName.parse(pair["control"])
        same = {"model": pair["model"], "draw": pair["draw"]}
        if treated != RunName(arm=pair["arm"], **same) or control != RunName(arm=control.arm, **same):
            told = ", ".join(f"{key} {pair[key]}" for key in ("arm", "model", "draw"))
            raise _wrong(path, f"a pair of {treated} and {control} as {told}", "the arm, model and draw of its runs")
    return Release(
        folder=folder,
        suite=facts["suite"],
        release_id=facts["release_id"],
        blind=facts["blind"],
        pairs=tuple(facts["pairs"]),
        revisions=facts["revisions"],
    )


def wrong_types(facts: dict[str, Any], expected: dict[str, type]) -> list[str]:
    """What is missing or of another type, in words; true is no number."""
    problems = []
    for key, kind in expected.items():
        if key not in facts:
            problems.append(f"has no {key}")
        elif type(facts[key]) is not kind:
            problems.append(f"{key} is {kind_of(facts[key])}, not {NAMES[kind]}")
    return problems


NAMES = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}


def kind_of(value: object) -> str:
    return NAMES.get(type(value), "null" if value is None else f"the number {value}")


def _wrong(path: Path, found: str, expected: str) -> CostarError:
    mend = "fetch the release again, or pack it again: costar release SUITE"
    return CostarError(str(path), found=found, expected=expected, mend=mend, exit_code=1)
