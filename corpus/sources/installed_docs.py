"""English prose of this Python installation: topics and docstrings of the standard library and of the pinned packages.

Files are read with `ast` and never imported. The list of packages is `constraints.txt`, so the text is the same for
the same Python patch version, platform and pins. Nothing is redistributed: every machine reads its own copy.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ...core.design import SourceDesign
from ..documents import Item, RawDocument

SKIPPED_FOLDERS = {"test", "tests", "testing", "idle_test", "site-packages", "ensurepip", "__pycache__", "_vendor"}
ONE_PARAGRAPH_A_LINE = True
PINNED = True  # versions say what the files hold, so their times do not
PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)")


def pins() -> dict[str, str]:
    """The pinned packages and versions of `constraints.txt`."""
    text = (Path(__file__).resolve().parents[2] / "constraints.txt").read_text(encoding="utf-8")
    return {match[1]: match[2] for line in text.splitlines() if (match := PIN.match(line))}


def items(source: SourceDesign, folders: Sequence[Path]) -> list[Item]:
    """The files to read, in a fixed order: topics, standard library, then packages by name."""
    library = Path(sysconfig.get_path("stdlib"))
    found = [Item(name=f"python:{name}", path=str(library / name)) for name in _library_files(library)]
    for package in sorted(pins(), key=str.lower):
        try:
            files = importlib.metadata.distribution(package).files or []
        except importlib.metadata.PackageNotFoundError:
            continue
        names = sorted(
            str(f) for f in files if f.suffix == ".py" and not SKIPPED_FOLDERS & set(f.parts) - {"site-packages"}
        )
        located = {str(f): f for f in files}
        found += [
            Item(name=f"{package}:{name}", path=str(located[name].locate())) for name in names if ".." not in name
        ]
    return found


def _library_files(library: Path) -> list[str]:
    names = sorted(str(path.relative_to(library)) for path in library.rglob("*.py"))
    return [
        name
        for name in names
        if not SKIPPED_FOLDERS & set(PurePosixPath(name).parts) and not name.startswith("config-")
    ]


def facts(source: SourceDesign, items: Sequence[Item] = ()) -> dict[str, object]:
    """What the text depends on, for `corpus.json`: versions, and the packages that differ from their pins."""
    installed = {}
    differing = []
    for package, pinned in sorted(pins().items()):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "absent"
        installed[package] = version
        if version.split("+")[0] != pinned:
            differing.append(f"{package} {version} (pinned {pinned})")
    return {
        "python": sys.version.split()[0],
        "platform": sysconfig.get_platform(),
        "packages": installed,
        "differs": differing,
    }


def read(item: Item, source: SourceDesign) -> Iterator[RawDocument]:
    """The prose of one file: each topic a document, or all docstrings of a module as one."""
    try:
        code = Path(item.path).read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, FileNotFoundError):
        return  # a template or a file in another encoding: no prose to be had
    if item.name == "python:pydoc_data/topics.py":
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                        yield RawDocument(doc_id=f"{item.name}:{key.value!s}", text=_prose([str(value.value)]))
        return
    yield RawDocument(doc_id=item.name, text=_prose(list(_docstrings(tree))))


def _docstrings(node: ast.AST) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, from the top down; expressions are not visited."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=True)
        if text:
            yield text
    for block in ("body", "orelse", "finalbody", "handlers"):
        for child in getattr(node, block, ()):
            yield from _docstrings(child)


def _prose(texts: Sequence[str]) -> str:
    """The paragraphs that read like sentences, one a line."""
    kept = []
    for text in texts:
        for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
            paragraph = " ".join(block.split())
            letters = sum(c.isalpha() or c == " " for c in paragraph)
            if len(paragraph) >= 80 and paragraph.count(" ") >= 11 and letters > 0.72 * len(paragraph):
                kept.append(paragraph)
    return "\n".join(kept)
