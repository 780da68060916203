"""A token store that another tool built: Megatron or NeoX `.bin` and `.idx`, opened where they lie, never copied.

`path` names the pair without its ending. The documents are tokens already, so none is read, held out or searched for
records here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...core.design import SourceDesign
from ...core.errors import CostarError
from ..documents import Item, RawDocument

ONE_PARAGRAPH_A_LINE = False


def items(source: SourceDesign, folders: Sequence[Path]) -> list[Item]:
    """The `.bin` and the `.idx`."""
    if len(source.paths) != 1:
        raise CostarError(
            "[corpus] path",
            found=f"{len(source.paths)} paths",
            expected="one: that of a .bin and its .idx, without the ending",
            mend="name it",
        )
    found = []
    for ending in (".bin", ".idx"):
        name = source.paths[0] + ending
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise CostarError(
                f"[corpus] path {source.paths[0]!r}",
                found=f"no file {name}",
                expected=f"one below {' or '.join(map(str, folders))}",
                mend="correct the path, or set `data` in machine.toml",
            )
        found.append(Item(name=Path(name).name, path=str(path.resolve())))
    return found


def facts(source: SourceDesign, items: Sequence[Item] = ()) -> dict[str, object]:
    return {"differs": []}


def read(item: Item, source: SourceDesign) -> Iterator[RawDocument]:
    """No text: the store holds tokens."""
    return iter(())
