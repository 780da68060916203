"""`machine.toml`: where things lie and what this machine is. It enters no hash of data."""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from .errors import CostarError, shorten


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`build` and `data` are folders; `workers` is the number of processes side by side (default: one per core)."""

    build: str = "build"
    data: str = ""
    workers: int = 0
    limit_hours: int | float = 24
    micro_batch: int = 0

    @property
    def processes(self) -> int:
        return self.workers or available_cores()


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_machine(path: Path = Path("machine.toml")) -> Machine:
    """The settings in `machine.toml` of the working directory, or the defaults.

    Raises:
        CostarError: the file is not TOML, or has an unknown key or a value of another type.
    """
    if not path.is_file():
        return Machine()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise CostarError(str(path), found=shorten(error), expected="TOML", mend="correct the line") from None
    types = {field.name: type(getattr(Machine(), field.name)) for field in fields(Machine)}
    for key, value in raw.items():
        if key not in types:
            close = difflib.get_close_matches(key, types, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise CostarError(
                f"{path}, {key}",
                found="an unknown key",
                expected=f"one of {', '.join(types)}",
                mend=f"correct or remove it{hint}",
            )
        number = (
            isinstance(value, int | float if key == "limit_hours" else int)
            and not isinstance(value, bool)
            and value >= 0
        )
        if not (number if types[key] is int else isinstance(value, types[key])):
            raise CostarError(
                f"{path}, {key}",
                found=repr(value),
                expected="a number, 0 or more" if types[key] is int else "text",
                mend="correct the value",
            )
    for key in ("build", "data"):
        if "\0" in raw.get(key, "") or len(raw.get(key, "")) > 1024:
            raise CostarError(f"{path}, {key}", found=shorten(repr(raw[key])), expected="a path", mend="correct it")
    return Machine(**raw)
