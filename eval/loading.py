"""Probes by name: costar's own, and a user's files beside the suite file, which are run for `costar eval` alone."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import cast

from ..core.design import Suite
from ..core.errors import CostarError, nearest, shorten
from ..core.hashing import sha256_file
from ..core.plugins import code_sha256, load_plugin, plugin_names
from .probes import NEEDED, READABLE, Loaded, Probe

PACKAGE = "costar.eval.probes"
KIND_PACKAGE = "costar.insertion.kinds"


def user_probes(suite: Suite) -> dict[str, Path]:
    """The user's probes, `probes/*.py` beside the suite file."""
    paths = sorted((suite.path.resolve().parent / "probes").glob("[!_]*.py"))
    return {path.stem.replace("_", "-"): path for path in paths}


def find_probe(name: str, suite: Suite) -> Path | None:
    """The user's file of a probe, or None for one of costar's own. Nothing of it is run.

    Raises:
        CostarError: there is no such probe, or two.
    """
    shipped, users = plugin_names(PACKAGE), user_probes(suite)
    if name in users and name in shipped:
        raise CostarError(
            str(users[name]),
            found=f"a probe by the name of costar's own {name!r}",
            expected="a name of its own, so that scores say what was measured",
            mend="rename the file, and the probe in [eval] probes",
        )
    if name not in users and name not in shipped:
        known = [*shipped, *users]
        raise CostarError(
            "[eval] probes",
            found=name,
            expected=f"one of {', '.join(known)}, or a file probes/{name.replace('-', '_')}.py beside the suite file",
            mend=f"correct the name{nearest(name, known)}",
        )
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise CostarError(
            "[eval] probes",
            found=name,
            expected="small letters, digits and single hyphens: files are named after it",
            mend="rename the probe and its file",
        )
    return users.get(name)


def load_probe(name: str, suite: Suite) -> Loaded:
    """The probe of a name. The user's file is run here, and nowhere before.

    Raises:
        CostarError: there is none, or the user's file is no probe.
    """
    path = find_probe(name, suite)
    if path is not None:
        return Loaded(name=name, probe=_executed(path), code=sha256_file(path), from_user=True)
    module = load_plugin(PACKAGE, name, place="[eval] probes")
    return Loaded(name=name, probe=cast(Probe, module), code=code_sha256(module), from_user=False)


def load_probes(suite: Suite) -> list[Loaded]:
    """Every probe of the suite file."""
    return [load_probe(name, suite) for name in suite.eval.probes]


def check_probes(suite: Suite) -> None:
    """Every probe of the suite file is there and has what a probe has; none is run.

    Raises:
        CostarError: one is not, or is no probe.
    """
    for name in suite.eval.probes:
        path = find_probe(name, suite)
        if path is not None:
            _check_names(path, _names(path))


def _executed(path: Path) -> Probe:
    """A probe from the user's file."""
    _check_names(path, _names(path))
    module = ModuleType(f"costar_user_probe_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look there
    try:
        exec(
            compile(path.read_bytes(), str(path), "exec"), vars(module)
        )  # no cached bytecode: the bytes that are hashed
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise _no_probe(path, error) from error
    _check_values(path, module)
    return cast(Probe, module)


def _no_probe(path: Path, error: BaseException) -> CostarError:
    line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
    return CostarError(
        f"{path}{line}",
        found=f"{type(error).__name__}: {shorten(getattr(error, 'msg', '') or error)}",
        expected="a probe",
        mend="correct the file (docs/evaluation.md shows one)",
    )


def _names(path: Path) -> set[str]:
    """The names that a file binds at its top level, read without running it."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        raise _no_probe(path, error) from None
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        else:
            found |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return found


def _check_names(path: Path, names: set[str]) -> None:
    missing = [name for name in ("NEEDS", "KINDS", "METRICS", "SOURCE", "scores") if name not in names]
    if missing:
        raise CostarError(
            str(path),
            found=f"nothing of {', '.join(missing)}",
            expected="NEEDS, KINDS, METRICS, SOURCE and scores(context, found)",
            mend="add it (docs/evaluation.md shows a probe)",
        )


def _check_values(path: Path, module: ModuleType) -> None:
    needs, kinds, metrics = (getattr(module, name, None) for name in ("NEEDS", "KINDS", "METRICS"))
    reads, known = getattr(module, "READS", ()), tuple(plugin_names(KIND_PACKAGE))
    checks: list[tuple[str, object, bool, str]] = [
        ("NEEDS", needs, _are(needs, NEEDED) and bool(needs), f"a tuple of {', '.join(NEEDED)}"),
        ("KINDS", kinds, _are(kinds, known), f"a tuple of kinds, of {', '.join(known)}; empty for all"),
        ("READS", reads, _are(reads, READABLE), f"a tuple of {', '.join(READABLE)}"),
        ("METRICS", metrics, isinstance(metrics, Mapping) and bool(metrics), "a table of metrics, and what each is"),
        ("scores", getattr(module, "scores", None), callable(getattr(module, "scores", None)), "a function"),
    ]
    for name, value, holds, expected in checks:
        if not holds:
            raise CostarError(
                f"{path}, {name}", found=shorten(repr(value)), expected=expected, mend="correct it (docs/evaluation.md)"
            )


def _are(value: object, known: tuple[str, ...]) -> bool:
    return isinstance(value, tuple) and all(each in known for each in value)
