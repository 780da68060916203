"""A workspace of its own that links what a built suite has, so that exports are written beside no other test's."""

from __future__ import annotations

from pathlib import Path

from costar.core.design import Suite
from costar.core.suite import load_suite
from costar.core.workspace import Workspace

LINKED = ("corpus", "insertion", "runs", "eval")


def linked_workspace(built: Path, folder: Path) -> tuple[Suite, Workspace]:
    """`folder/small` with the parts of `built`, and without a release."""
    root = folder / "small"
    root.mkdir()
    for name in LINKED:
        (root / name).symlink_to(built / name)
    return load_suite(built / "suite.toml"), Workspace(root)


def sums_of(folder: Path) -> dict[str, str]:
    """SHA256SUMS of a folder: file → sum."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def files_of(folder: Path) -> set[str]:
    """The files of a folder but for its sums and its marker."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return names - {"SHA256SUMS", "stage.json"}
