"""What a verb works on: the suite, where it is built, and this machine's settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .design import Suite
from .errors import CostarError
from .machine import Machine, load_machine
from .suite import find_suite, load_suite
from .workspace import Workspace


@dataclass(frozen=True)
class Session:
    suite: Suite
    workspace: Workspace
    machine: Machine

    @property
    def folders(self) -> list[Path]:
        """Where relative paths of the suite start: `data` of machine.toml, then beside the suite file."""
        beside = self.suite.path.resolve().parent
        return [Path(self.machine.data), beside] if self.machine.data else [beside]


def open_session(name: str) -> Session:
    """A session for a suite's name, a suite file, or a built directory.

    Raises:
        CostarError: nothing of that name, or the file breaks a rule.
    """
    machine = load_machine()
    folder = Path(name)
    if folder.is_dir() and "/" in name.rstrip("/") + "/" and (folder / "suite.toml").is_file():
        return Session(load_suite(folder / "suite.toml"), Workspace(folder), machine)
    if folder.is_dir() and not (Path("suites") / f"{name}.toml").is_file() and "/" in name:
        raise CostarError(name, found="a folder without suite.toml", expected="a built suite", mend="check the path")
    suite = load_suite(find_suite(name))
    return Session(suite, Workspace(Path(machine.build) / suite.name), machine)
