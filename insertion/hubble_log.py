"""Hubble's log of its in-place insertion: JSON lines, one a copy, in the order of insertion; read and checked.

`perturbation_file` (pool), `perturbation_idx` (record in the pool) and `pt_loc` (slot, the place in training order) are
needed. `pt_injection_pos` is the segment k before which the record went, `pt_window_offset` the tokens then cut off on
the left; without k the record overwrote the start of the window. All else can be computed and is held against the
files: `pt_shuffle_idx`, `doc_index_f`, `doc_index_l`, `offset_f`, `offset_l`, `pt_injection_len`, `orig_doc_seq_sizes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CostarError, shorten
from ..corpus.neox import NeoxIndex, Pieces
from ..corpus.store import TokenStore

NUMBERS = (
    "perturbation_idx",
    "pt_loc",
    "pt_injection_pos",
    "pt_window_offset",
    "pt_shuffle_idx",
    "doc_index_f",
    "offset_f",
    "doc_index_l",
    "offset_l",
    "pt_injection_len",
)
NEEDED = ("perturbation_file", "perturbation_idx", "pt_loc")
ABSENT = -1
MEND = "take the log, the pools, the base and the index files of one and the same corpus"


@dataclass(frozen=True, kw_only=True)
class Copies:
    """The copies [n] of a log, in the order of insertion; columns of int64, −1 where the log says nothing.

    `lines` are the places in the file, `pools` indices into `names`; `sizes` [sum of `counts`] the logged segments.
    """

    path: Path
    names: tuple[str, ...]
    lines: NDArray[np.int64]
    pools: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.int64]]
    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lines)

    def fail(self, copy: int | np.int64, found: str, expected: str) -> CostarError:
        return CostarError(f"{self.path}:{self.lines[copy]}", found=found, expected=expected, mend=MEND)


def read_log(path: Path) -> Copies:
    """Read a log.

    Raises:
        CostarError: no such file, or a line is not a copy; file and line are named.
    """
    pools: dict[str, int] = {}
    lines, owners, numbers, counts, sizes = [], [], [], [], []
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        found, mend = str(error.strerror), "check the path"
        raise CostarError(str(path), found=found, expected="Hubble's log of insertions", mend=mend) from None
    with file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            entry = _parse(path, line, text)
            lines.append(line)
            owners.append(pools.setdefault(entry["perturbation_file"], len(pools)))
            numbers.append([entry.get(name, ABSENT) for name in NUMBERS])
            counts.append(len(entry.get("orig_doc_seq_sizes", ())))
            sizes += entry.get("orig_doc_seq_sizes", ())
    table = np.array(numbers, np.int64).reshape(len(lines), len(NUMBERS))
    return Copies(
        path=path,
        names=tuple(pools),
        lines=np.array(lines, np.int64),
        pools=np.array(owners, np.int64),
        columns={name: table[:, number].copy() for number, name in enumerate(NUMBERS)},
        counts=np.array(counts, np.int64),
        sizes=np.array(sizes, np.int64),
    )


def _parse(path: Path, line: int, text: str) -> dict[str, Any]:
    def fail(found: str, expected: str, mend: str) -> CostarError:
        return CostarError(f"{path}:{line}", found=found, expected=expected, mend=mend)

    try:
        entry = json.loads(text)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        raise fail(shorten(text), "a JSON object, one a copy", "copy the log again: it was cut or edited")
    missing = [name for name in NEEDED if name not in entry]
    if missing or not isinstance(entry["perturbation_file"], str):
        raise fail(f"no {', '.join(missing) or 'name in perturbation_file'}", ", ".join(NEEDED), "add it to the line")
    for name in NUMBERS:
        value = entry.get(name, 0)
        if type(value) is not int or not 0 <= value < 2**63:
            raise fail(f"{name} = {shorten(value)}", "a whole number from 0 on", "correct it")
    logged = entry.get("orig_doc_seq_sizes", [])
    if not isinstance(logged, list) or not all(type(size) is int and 0 <= size < 2**31 for size in logged):
        raise fail(f"orig_doc_seq_sizes = {shorten(logged)}", "a list of token counts", "correct it")
    if entry.get("pt_injection_pos", 0) and "pt_window_offset" not in entry:
        expected = "pt_window_offset, the tokens cut off on the left"
        raise fail("pt_injection_pos above 0 alone", expected, "add it: it was drawn at random, it cannot be computed")
    return entry


def open_pools(folder: Path, names: tuple[str, ...]) -> dict[str, TokenStore]:
    """The pools of a log: `<name>.bin` and `<name>.idx` in a folder.

    Raises:
        CostarError: a pool is missing or damaged.
    """
    mend = "put the tokenized pools that the log names into this folder"
    return {name: TokenStore.open_prefix(folder / Path(name).name, mend=mend) for name in names}


def record_bounds(copies: Copies, pools: Mapping[str, TokenStore], dtype: np.dtype[Any]) -> NDArray[np.int64]:
    """The record of each copy as (begin, end) [n, 2] in its pool, in tokens.

    Raises:
        CostarError: a pool or a record of it is missing, of another token type, or inserted twice.
    """
    bounds = np.zeros((len(copies), 2), np.int64)
    index = copies.columns["perturbation_idx"]
    for number, name in enumerate(copies.names):
        chosen = np.flatnonzero(copies.pools == number)
        if name not in pools:
            raise copies.fail(chosen[0], f"pool {name!r}", f"one of {', '.join(sorted(pools)) or 'no pools'}")
        pool = pools[name]
        if pool.tokens.dtype != dtype:
            raise copies.fail(chosen[0], f"pool {name!r} of {pool.tokens.dtype}", f"{dtype}, as the base")
        beyond = chosen[index[chosen] >= len(pool.sizes)]
        if len(beyond):
            expected = f"below {len(pool.sizes):,}, the records of {name!r}"
            raise copies.fail(beyond[0], f"perturbation_idx {index[beyond[0]]:,}", expected)
        _refuse_repeats(copies, chosen, index, f"record of {name!r}")
        bounds[chosen, 0], bounds[chosen, 1] = pool.starts[index[chosen]], pool.starts[index[chosen] + 1]
    return bounds


def check_slots(copies: Copies, index: NeoxIndex) -> None:
    """Every copy has a slot of its own that training reads, and the logged sample is the one read there."""
    slots = copies.columns["pt_loc"]
    _refuse(copies, slots >= index.samples, slots, "pt_loc", np.full(len(copies), index.samples - 1), "at most")
    _refuse_repeats(copies, np.arange(len(copies)), slots, "pt_loc")
    samples = index.shuffle_idx[slots].astype(np.int64)
    wanted = {"pt_shuffle_idx": samples}
    for end, rows in (("f", index.sample_idx[samples]), ("l", index.sample_idx[samples + 1])):
        wanted |= {f"doc_index_{end}": rows[:, 0].astype(np.int64), f"offset_{end}": rows[:, 1].astype(np.int64)}
    for name, expected in wanted.items():
        logged = copies.columns[name]
        _refuse(copies, (logged != ABSENT) & (logged != expected), logged, name, expected, "as the index files say,")


def check_windows(
    copies: Copies, pieces: Pieces, lengths: NDArray[np.int64], starts: NDArray[np.int64], length: int
) -> None:
    """Records, boundaries and crops agree with the windows.

    `lengths` [n] are the records in tokens, `starts` [n] the tokens of a window before its record, `length` is L.
    """
    logged = copies.columns["pt_injection_len"]
    _refuse(copies, (logged != ABSENT) & (logged != lengths), logged, "pt_injection_len", lengths, "as in the pool,")
    limit = np.full(len(copies), length)
    _refuse(copies, lengths > limit, lengths, "a record of length", limit, "at most")
    segments = np.diff(pieces.offsets)
    boundary, crop = copies.columns["pt_injection_pos"], copies.columns["pt_window_offset"]
    _refuse(copies, boundary >= segments, boundary, "pt_injection_pos", segments - 1, "at most")
    top = np.where(boundary > 0, np.minimum(starts, np.maximum(lengths - 1, 0)), 0)
    _refuse(copies, crop > top, crop, "pt_window_offset", top, "so that the window keeps the whole record, at most")
    bottom = starts + lengths - (length + 1)
    inside = (boundary > 0) & (crop < bottom)
    _refuse(copies, inside, crop, "pt_window_offset", bottom, "so that the window keeps the whole record, at least")
    _refuse(copies, (copies.counts > 0) & (copies.counts != segments), copies.counts, "segments", segments, "exactly")
    owner = np.repeat(np.arange(len(copies)), np.where(copies.counts > 0, segments, 0))
    true = pieces.lengths[np.repeat(copies.counts > 0, segments)]
    wrong = np.flatnonzero(true != copies.sizes)
    if len(wrong):
        found = f"a segment of {copies.sizes[wrong[0]]:,} tokens in orig_doc_seq_sizes"
        raise copies.fail(owner[wrong[0]], found, f"{true[wrong[0]]:,}, as the index files say")


def _refuse(
    copies: Copies,
    wrong: NDArray[np.bool_],
    values: NDArray[np.int64],
    name: str,
    expected: NDArray[np.int64],
    words: str,
) -> None:
    found = np.flatnonzero(wrong)
    if len(found):
        first = found[0]
        raise copies.fail(first, f"{name} {values[first]:,}", f"{words} {expected[first]:,}")


def _refuse_repeats(copies: Copies, chosen: NDArray[np.int64], values: NDArray[np.int64], what: str) -> None:
    """No two of the chosen copies have the same value."""
    order = chosen[np.argsort(values[chosen], kind="stable")]
    again = np.flatnonzero(values[order[1:]] == values[order[:-1]])
    if len(again):
        first, second = order[again[0]], order[again[0] + 1]
        found = f"{what} {values[second]:,}, which line {copies.lines[first]} has already"
        raise copies.fail(second, found, "each once: a second pass over the log inserts twice")
