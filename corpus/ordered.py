"""A store that is read in the order of given tables: they are linked beside it, and checked number by number once.

`corpus/order_{doc,sample,shuffle}_idx.npy` are links to NeoX's tables of one split of one store, and `corpus.json` says
`"order": "table"`. Without them a corpus has costar's own order, `"keyed"`.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import CostarError
from ..core.hashing import sha256_file
from .documents import Item
from .links import replace_link
from .neox import TABLES, NeoxIndex, find_stem
from .store import BLOCK, TokenStore
from .windows import table_paths

MEND = "take the index files that NeoX made for this store, this sequence length and these documents"


def find_tables(index: str, folders: Sequence[Path]) -> list[Item]:
    """The three tables that a suite names: by their folder, or by the beginning of their names, below `folders`.

    Raises:
        CostarError: none there, or several triples.
    """
    for folder in folders:
        place = folder / index
        if place.is_dir() or glob.glob(f"{glob.escape(str(place))}*_idx.npy"):
            stem = find_stem(place)
            paths = [stem.with_name(f"{stem.name}_{name}_idx.npy") for name in TABLES]
            return [Item(name=path.name, path=str(path.resolve())) for path in paths]
    raise CostarError(
        f"[corpus] index {index!r}",
        found="no such tables",
        expected=f"a folder, or the beginning of …_{{doc,sample,shuffle}}_idx.npy, below {' or '.join(map(str, folders))}",
        mend="correct the path, or set `data` in machine.toml",
    )


def link_tables(tables: Sequence[Item], folder: Path, length: int) -> tuple[list[Path], dict[str, Any]]:
    """Link tables beside the store of a corpus folder, if there are any: the links, and what `corpus.json` says.

    Raises:
        CostarError: tables of another store or sequence length, or damaged ones.
    """
    links = table_paths(folder)
    if not tables:
        for link in links:
            link.unlink(missing_ok=True)
        return [], {"order": "keyed"}
    stem = Path(tables[0].path.removesuffix(f"_{TABLES[0]}_idx.npy"))
    index = NeoxIndex.open(stem, TokenStore.open(folder).starts, length=length)
    check_tables(index, str(stem))
    for table, link in zip(tables, links, strict=True):
        replace_link(link, table.path)
    hashes = {name: sha256_file(link) for name, link in zip(TABLES, links, strict=True)}
    return links, {"order": "table", "order_sha256": hashes, "sequences": index.samples}


def check_tables(index: NeoxIndex, place: str) -> None:
    """Every sample is where the documents put it, and is read once.

    One pass over the tables. Memory: a byte a sample.

    Raises:
        CostarError: damaged tables, or those of another store; `place` is named.
    """

    def fail(found: str, expected: str) -> CostarError:
        return CostarError(place, found=found, expected=expected, mend=MEND)

    sample, begin = 0, 0
    for first in range(0, len(index.doc_idx), BLOCK):
        documents = np.asarray(index.doc_idx[first : first + BLOCK]).astype(np.int64)
        bounds = np.concatenate([[0], np.cumsum(index.starts[documents + 1] - index.starts[documents])]) + begin
        # The samples whose first token lies in this block of documents.
        until = min(-(-int(bounds[-1]) // index.length), index.samples + 1)
        for low in range(sample, until, BLOCK):
            rows = np.asarray(index.sample_idx[low : min(low + BLOCK, until)]).astype(np.int64)
            known = (rows[:, 0] >= first) & (rows[:, 0] < first + len(documents))
            at = bounds[np.where(known, rows[:, 0] - first, 0)] + rows[:, 1]
            wrong = np.flatnonzero(~known | (at != (low + np.arange(len(rows))) * index.length) | (rows[:, 1] < 0))
            if len(wrong):
                found = f"sample {low + wrong[0]:,} of sample_idx at another token"
                raise fail(found, f"token sample × {index.length:,} of the documents in the order of doc_idx")
        sample, begin = max(sample, until), int(bounds[-1])
    seen = np.zeros(index.samples, np.bool_)
    for first in range(0, index.samples, BLOCK):
        seen[np.asarray(index.shuffle_idx[first : min(first + BLOCK, index.samples)]).astype(np.int64)] = True
    if not seen.all():
        missing = int(np.flatnonzero(~seen)[0])
        raise fail(f"a shuffle_idx that never reads sample {missing:,}", "every sample once")
