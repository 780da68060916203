"""Text of a data set of the Hugging Face Hub: `path` is `owner/name`, or `owner/name/glob` for some of its files.

A folder of that name below `data` is read as it lies; otherwise `costar corpus` downloads the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...core.design import SourceDesign
from ...core.errors import CostarError
from ..documents import Item, RawDocument
from ..hub import hub_files
from . import files

ONE_PARAGRAPH_A_LINE = False


def items(source: SourceDesign, folders: Sequence[Path]) -> list[Item]:
    """The files of every data set, in the order of the paths."""
    if not source.paths:
        raise CostarError("[corpus] path", found="nothing", expected='"owner/name" of a data set', mend="add the key")
    found = []
    for path in source.paths:
        named = hub_files(path, f"[corpus] path {path!r}", folders, fetch=True)
        found += [Item(name=name, path=str(file)) for name, file in named]
    return found


def facts(source: SourceDesign) -> dict[str, object]:
    return {"differs": []}


def read(item: Item, source: SourceDesign) -> Iterator[RawDocument]:
    """The documents of one file, a row each."""
    return files.read(item, source)
