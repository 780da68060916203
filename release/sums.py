"""`SHA256SUMS`: what is flipped, missing, extra or swapped in a folder, in words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ..core.console import Update
from ..core.errors import CostarError
from ..core.hashing import sha256_file
from .facts import FACTS, PARTS, SUMS

AGAIN = "download the release again; costar verify tells what is damaged"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def read_sums(path: Path) -> dict[str, str]:
    """The sum of each file of a folder.

    Raises:
        CostarError: no such file, a line that is no sum, a name twice, or a path out of the folder.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise _wrong(path, f"no sums ({getattr(error, 'strerror', None) or 'not text'})") from None
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = LINE.fullmatch(line)
        name = PurePosixPath(match[2]) if match else PurePosixPath("..")
        if match is None or name.is_absolute() or ".." in name.parts or str(name) in sums:
            raise _wrong(path, f"line {number}: {line[:80]!r}")
        sums[str(name)] = match[1]
    if not sums:
        raise _wrong(path, "no sums (an empty file)")
    return sums


def sums_text(sums: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def release_id(sums: Mapping[str, str]) -> str:
    """The sha256 of the lines that are of models, revisions and data, in the order of their names."""
    own = {name: digest for name, digest in sums.items() if name.split("/")[0] in PARTS}
    return hashlib.sha256(sums_text(own).encode()).hexdigest()


def files_below(folder: Path) -> list[str]:
    """The files of a folder, but for hidden ones: locks, caches, and what a killed writer left."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(str(name) for name in names if not any(part.startswith(".") for part in name.parts))


def require_whole(folder: Path, expected_id: str, parts: Sequence[str]) -> None:
    """Refuse a release whose files of some paths, or that begin with them, are not those that were written.

    Raises:
        CostarError: a SHA256SUMS that cannot be read or is of another release, or a file that it does not have so.
    """
    sums = read_sums(folder / SUMS)
    if release_id(sums) != expected_id:
        raise CostarError(
            str(folder / SUMS),
            found=f"the sums of release {release_id(sums)[:16]}…",
            expected=f"those of {expected_id[:16]}…, as {FACTS} says",
            mend=AGAIN,
            exit_code=1,
        )
    parts = (FACTS, *parts)
    own = {name: digest for name, digest in sums.items() if name.startswith(tuple(parts))}
    present = [name for name in files_below(folder) if name.startswith(tuple(parts))]
    if problems := compare(folder, own, present, lambda share, remark: None):
        raise CostarError(
            str(folder), found="; ".join(problems[:5]), expected=f"the files of {SUMS}", mend=AGAIN, exit_code=1
        )


def compare(folder: Path, sums: Mapping[str, str], present: Iterable[str], update: Update) -> list[str]:
    """What is wrong with the files of a folder that has these sums; `present` are the files that should have one."""
    problems, found = [], {}
    for number, (name, digest) in enumerate(sums.items()):
        update(number / len(sums), name)
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif (actual := sha256_file(path)) != digest:
            found[name] = actual
    problems += [f"{folder / name}: not in {SUMS}" for name in sorted(set(present) - set(sums) - {SUMS})]
    return problems + _told(folder, sums, found)


def _told(folder: Path, sums: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Files with other bytes than their sums: swapped, or those of another file, or damaged."""
    owners: dict[str, list[str]] = {}
    for name, digest in sums.items():
        owners.setdefault(digest, []).append(name)
    problems, told = [], set()
    for name, actual in sorted(found.items()):
        if name in told:
            continue
        others = owners.get(actual, [])
        partner = next((other for other in others if found.get(other) == sums[name] and other not in told), None)
        if partner is not None:
            told.add(partner)
            problems.append(f"{folder / name} and {folder / partner}: swapped")
        elif others:
            problems.append(f"{folder / name}: holds the bytes of {others[0]}")
        else:
            problems.append(f"{folder / name}: its bytes are not those that were written")
    return problems


def _wrong(path: Path, found: str) -> CostarError:
    return CostarError(
        str(path),
        found=found,
        expected="lines of a sha256, two spaces and a name",
        mend="fetch the file again, or pack the release again: costar release SUITE",
        exit_code=1,
    )
