"""Evidence of what any trainer read: a file of rolling digests that grows by a line a step.

The first line names what was to be read: {"arm": "late", "draw": 0, "batch": 8, "sequence_length": 256}. Each further
line is a finished step: {"step": 0, "digest": "…", "first_row": "…"}. The digest is that of invariant 5, from 16 zero
bytes on; `first_row` is the hash of the step's first row, which tells where wrong rows came from, and may be left out;
`rows` is there when a step had another number of rows than the batch. Any program that can compute blake2b can write
such a file; `costar verify SUITE --digests FILE` holds it against the plan.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import CostarError, shorten

HASH_BYTES = 16
HEADER = ("arm", "draw", "batch", "sequence_length")
MEND = "put back the file that the trainer wrote, or train again with another path"


@dataclass(frozen=True, kw_only=True)
class StepDigest:
    """One finished step; `first_row` and `rows` are None where the trainer did not write them."""

    digest: bytes
    first_row: bytes | None
    rows: int | None


@dataclass(frozen=True, kw_only=True)
class DigestFile:
    """A file of digests: what was to be read, and steps 0 … n − 1 as they were read."""

    arm: str
    draw: int
    batch: int
    sequence_length: int
    steps: tuple[StepDigest, ...]


def step_line(step: int, digest: StepDigest) -> str:
    """The line of a finished step."""
    line: dict[str, Any] = {"step": step, "digest": digest.digest.hex()}
    if digest.first_row is not None:
        line["first_row"] = digest.first_row.hex()
    if digest.rows is not None:
        line["rows"] = digest.rows
    return json.dumps(line) + "\n"


def read_digests(path: str | Path) -> DigestFile:
    """A file of digests. A last line that was cut short, as a killed trainer leaves it, is passed over.

    Raises:
        CostarError: there is no such file, or a line is not what the format says.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CostarError(str(path), found=f"no text ({error})", expected="a file of digests", mend=MEND) from None
    lines = text.split("\n")
    if lines[-1] and _parsed(lines[-1]) is None:  # the line that a killed process was writing
        lines[-1] = ""
    if not lines[-1]:
        lines.pop()
    header = _parsed(lines[0]) if lines else None
    if header is None or not _is_header(header):
        expected = '{"arm": name, "draw": number, "batch": number, "sequence_length": number}'
        raise _malformed(path, 1, lines[0] if lines else "", expected)
    steps = []
    for number, line in enumerate(lines[1:]):
        step = _parsed_step(_parsed(line), number)
        if step is None:
            expected = f'{{"step": {number}, "digest": 32 hexadecimal digits}}'
            raise _malformed(path, number + 2, line, expected)
        steps.append(step)
    return DigestFile(**{key: header[key] for key in HEADER}, steps=tuple(steps))


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_header(line: dict[str, Any]) -> bool:
    numbers = all(type(line.get(key)) is int for key in HEADER[1:])
    return numbers and isinstance(line.get("arm"), str) and line["draw"] >= 0 < min(line["batch"], line[HEADER[3]])


def _parsed_step(line: dict[str, Any] | None, number: int) -> StepDigest | None:
    if line is None or type(line.get("step")) is not int or line["step"] != number:
        return None
    try:
        digest = bytes.fromhex(line["digest"])
        first_row = bytes.fromhex(line["first_row"]) if "first_row" in line else None
        rows = int(line["rows"]) if "rows" in line else None
    except (KeyError, TypeError, ValueError):
        return None
    if len(digest) != HASH_BYTES or (first_row is not None and len(first_row) != HASH_BYTES):
        return None
    return StepDigest(digest=digest, first_row=first_row, rows=rows)


def _malformed(path: Path, number: int, line: str, expected: str) -> CostarError:
    return CostarError(f"{path}, line {number}", found=shorten(line) or "nothing", expected=expected, mend=MEND)
