"""Kinds, sources and probes are files in a folder, found by name: `secret-rank` is `probes/secret_rank.py`."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from .errors import CostarError, nearest


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
