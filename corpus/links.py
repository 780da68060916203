"""Files of others in a corpus folder without a copy, each put there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_link(link: Path, target: str) -> None:
    """Make or replace a symbolic link."""
    _replace(link, lambda temporary: temporary.symlink_to(target))


def share_file(target: Path, folder: Path) -> Path:
    """A file of the same name in a folder: the same file where both lie on one file system, so that it stays when the
    other is replaced; else a symbolic link. Its path."""
    path, source = folder / target.name, target.resolve()

    def make(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:
            temporary.symlink_to(source)

    _replace(path, make)
    return path


def _replace(path: Path, make: Callable[[Path], None]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.link")
    temporary.unlink(missing_ok=True)
    make(temporary)
    os.replace(temporary, path)
    temporary.unlink(missing_ok=True)  # a rename onto the same file leaves both names
