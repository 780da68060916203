"""Kinds, sources and probes are files in a folder, found by name: `secret-rank` is `probes/secret_rank.py`."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from .errors import CostarError, nearest
from .hashing import sha256_file, sha256_json


def plugin_names(package: str) -> list[str]:
    """The names under a package such as `costar.eval.probes`."""
    folder = importlib.import_module(package)
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(folder.__path__))


def load_plugin(package: str, name: str, *, place: str) -> ModuleType:
    """Import the module of a name.

    Raises:
        CostarError: there is no such file; `place` says where the name was read.
    """
    known = plugin_names(package)
    if name not in known:
        raise CostarError(
            place,
            found=name,
            expected=f"one of {', '.join(known)}",
            mend=f"correct the name{nearest(name, known)}",
        )
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")


def code_sha256(module: ModuleType) -> str:
    """The hash of a plug-in's file and of all that it imports from its own room, so that results follow the code."""
    path = Path(str(module.__file__))
    found: dict[Path, str] = {}
    _follow(path, path.parent.parent, found)
    return sha256_json(sorted((str(each.relative_to(path.parent.parent)), sha) for each, sha in found.items()))


def _follow(path: Path, room: Path, found: dict[Path, str]) -> None:
    if path in found or not path.is_file():
        return
    found[path] = sha256_file(path)
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            folder = path.parents[node.level - 1]
            if folder.is_relative_to(room):
                _follow(folder.joinpath(*node.module.split(".")).with_suffix(".py"), room, found)
