"""Shards that datatrove's DocumentTokenizer wrote (`*.ds` with `*.ds.index`), taken over as they are: one is linked.

`path` names a folder, or shards by glob; several are joined in the order of their names. The documents are tokens
already, so none is read, held out or searched for records here.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...core.design import SourceDesign
from ...core.errors import CostarError
from ..documents import Item, RawDocument
from ..shards import index_of

ONE_PARAGRAPH_A_LINE = False


def items(source: SourceDesign, folders: Sequence[Path]) -> list[Item]:
    """Every `.ds` in the order of the names, each followed by its index."""
    found: dict[str, Path] = {}
    for pattern in source.paths or ("",):
        hits: list[tuple[str, Path]] = []
        for folder in folders:
            whole = str(folder / pattern / "*.ds" if pattern and (folder / pattern).is_dir() else folder / pattern)
            paths = [Path(hit) for hit in glob.glob(whole, recursive=True) if hit.endswith(".ds")]
            hits = [(str(p.relative_to(folder)) if p.is_relative_to(folder) else p.name, p) for p in paths]
            if hits:
                break
        if not hits:
            raise CostarError(
                f"[corpus] path {pattern!r}",
                found="no .ds file",
                expected=f"a folder of them, or a glob, below {' or '.join(map(str, folders))}",
                mend="correct the path, or set `data` in machine.toml",
            )
        found |= dict(hits)
    listed = []
    for name in sorted(found):
        index = index_of(found[name])
        if not index.is_file():
            raise CostarError(
                str(index),
                found="no such file",
                expected="the index of the shard beside it",
                mend="tokenize with save_index = True, or copy it too",
            )
        listed.append(Item(name=name, path=str(found[name].resolve())))
        listed.append(Item(name=f"{name}.index", path=str(index.resolve())))
    return listed


def facts(source: SourceDesign, items: Sequence[Item] = ()) -> dict[str, object]:
    return {"differs": []}


def read(item: Item, source: SourceDesign) -> Iterator[RawDocument]:
    """No text: the shards hold tokens."""
    return iter(())
