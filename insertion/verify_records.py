"""Proof of records, renderings, fillers and the balance table from the files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from ..core.design import Suite
from ..core.parquet import read_table
from ..core.workspace import Workspace
from ..corpus.reading import open_tokenizer
from .kinds import load_kind, text_of
from .overlay import MEND
from .rewordings import pieces_of, renderings_of

SHOWN = 5


def check_texts(suite: Suite, workspace: Workspace) -> Iterator[str]:
    """Every text is what its record's fields say, and its ids are what the tokenizer makes of it and decode to it."""
    folder = workspace.insertion
    tokenizer = open_tokenizer(suite.corpus, workspace.corpus)
    columns = ["record_id", "perturbation", "fields", "text"]
    records = {
        row["record_id"]: row for row in read_table(folder / "records.parquet", mend=MEND).select(columns).to_pylist()
    }
    kinds = {name: load_kind(design.kind, place=name) for name, design in suite.perturbations.items()}
    named = {name: renderings_of(design, kinds[name]) for name, design in suite.perturbations.items()}
    written = ["record_id", "rendering", "text", "token_ids"]
    paths = [folder / name for name in ("renderings.parquet", "fillers.parquet")]
    table = pa.concat_tables([read_table(path, mend=MEND, columns=written) for path in paths])
    for batch in table.to_batches(4096):
        rows = batch.to_pylist()
        for row, ids in zip(rows, tokenizer.encode_batch([row["text"] for row in rows]), strict=True):
            if row["token_ids"] != ids or tokenizer.decode(ids) != row["text"]:
                yield f"{row['record_id']} as {row['rendering']}: its ids are not those of its text"
            record = records.get(row["record_id"])
            if record is None or row["rendering"] not in named[record["perturbation"]]:
                continue
            design, fields = suite.perturbations[record["perturbation"]], json.loads(record["fields"])
            if text_of(pieces_of(fields, row["rendering"], design, kinds[design.name])) != row["text"]:
                yield f"{row['record_id']} as {row['rendering']} is not what its fields say"
            if row["rendering"] == named[design.name][0] and row["text"] != record["text"]:
                yield f"{row['record_id']}: its text is not its canonical rendering"


def check_fillers(workspace: Workspace) -> Iterator[str]:
    """No filler has the text of a record."""
    columns = ["record_id", "text"]
    records, fillers = (
        read_table(workspace.insertion / f"{name}.parquet", mend=MEND, columns=columns)
        for name in ("records", "fillers")
    )
    texts = dict(zip(records.column("text").to_pylist(), records.column("record_id").to_pylist(), strict=True))
    same = [row for row in fillers.to_pylist() if row["text"] in texts]
    for row in same[:SHOWN]:
        yield f"filler {row['record_id']} has the text of {texts[row['text']]}"
    if len(same) > SHOWN:
        yield f"{len(same)} fillers have the text of a record"


def check_balance(workspace: Workspace, cells: Mapping[int, Counter[tuple[Any, ...]]]) -> Iterator[str]:
    """The counts of the balance table are those of the suite's assignment: (perturbation, stratum, level) by draw."""
    found: dict[int, Counter[tuple[Any, ...]]] = {draw: Counter() for draw in cells}
    for row in read_table(workspace.insertion / "balance.parquet", mend=MEND).to_pylist():
        found.setdefault(row["draw"], Counter())[(row["perturbation"], row["stratum"], row["level"])] += row["records"]
    for draw, expected in cells.items():
        if found[draw] != expected:
            different = sorted((found[draw] - expected) + (expected - found[draw]))[:SHOWN]
            yield f"balance, draw {draw}: other counts of {', '.join(map(str, different))}"
