"""The data set of a release: flat tables, one for each named configuration, in an order that says nothing of the labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..core.design import RunName, SourceDesign, Suite
from ..core.errors import CostarError
from ..core.parquet import read_table, write_table
from ..core.workspace import Workspace, check_files, corpus_facts, read_facts, read_marker, step_of
from ..insertion.overlay import read_exposures
from ..manifests.catalogue import score_files
from ..manifests.tables import RECORDS, RENDERINGS
from ..train.config import read_config
from .canary import RISK, canary_of
from .membership import membership_rows
from .pairs import Pair, inserted_by, runs_of
from .sealed import open_part

MEND = "run the stage that wrote it again"
RECIPE = pa.schema(
    [
        ("name", pa.string()),
        ("source", pa.string()),
        ("paths", pa.list_(pa.string())),
        ("revisions", pa.list_(pa.string())),
        ("text_field", pa.string()),
        ("share", pa.string()),
        ("megabytes", pa.int64()),
        ("documents", pa.int64()),
        ("bytes", pa.int64()),
        ("licence", pa.string()),
        ("quality", pa.list_(pa.string())),
        ("deduplicate", pa.string()),
        ("held_out", pa.string()),
        ("validation", pa.string()),
        ("sequence_length", pa.int64()),
        ("vocabulary", pa.int64()),
        ("corpus_documents", pa.int64()),
        ("corpus_tokens", pa.int64()),
        ("tokens_sha256", pa.string()),
        ("tokenizer_sha256", pa.string()),
        ("corpus_sha256", pa.string()),
    ]
)


def source_tables(
    suite: Suite, workspace: Workspace, pairs: Sequence[Pair], *, blind: bool
) -> tuple[pa.Table, pa.Table]:
    """The records and renderings that are packed: of what the pairs read, with the fillers of their arms.

    A blind release has no fillers: each has the length of the copy whose place it takes.

    Raises:
        CostarError: a table is damaged.
    """
    check_files(workspace.insertion, "records", mend=MEND)
    check_files(workspace.insertion, "insert", mend=MEND)
    records, renderings, fillers = (
        read_table(workspace.insertion / f"{name}.parquet", mend=MEND) for name in ("records", "renderings", "fillers")
    )
    wanted = pa.array(inserted_by(suite, pairs), pa.string())
    records = records.filter(pc.is_in(records.column("perturbation"), value_set=wanted))
    renderings = renderings.filter(pc.is_in(renderings.column("record_id"), value_set=records.column("record_id")))
    columns = [name for name in RENDERINGS.names if name not in ("spans", "token_ids")]
    if blind:
        return records, renderings.select(columns)
    used = pa.chunked_array([each.column("record_id") for each in _exposures(workspace, pairs)]).combine_chunks()
    fillers = fillers.filter(pc.is_in(fillers.column("record_id"), value_set=used))
    return (
        pa.concat_tables([records, fillers.select(RECORDS.names)]),
        pa.concat_tables([renderings.select(columns), fillers.select(columns)]),
    )


def release_tables(
    suite: Suite, workspace: Workspace, pairs: Sequence[Pair], records: pa.Table, renderings: pa.Table
) -> dict[str, pa.Table]:
    """Configuration → table, of `source_tables` and all that is said of them."""
    guid = canary_of(workspace)
    arms = pa.array(sorted({RunName.parse(run).arm for run in runs_of(pairs)}), pa.string())
    assignments = read_table(workspace.insertion / "assignments.parquet", mend=MEND)
    assignments = assignments.filter(
        pc.and_(
            pc.is_in(assignments.column("arm"), value_set=arms),
            pc.is_in(assignments.column("record_id"), value_set=records.column("record_id")),
        )
    )
    tables = {
        "records": flat_records(records, guid),
        "renderings": _with_origin(renderings, records, guid),
        "assignments": assignments,
        "exposures": pa.concat_tables(_exposures(workspace, pairs)),
        "corpus": corpus_recipe(suite, workspace),
        "membership": pa.concat_tables(
            [membership_rows(suite, workspace, pair.arm, pair.model, pair.draw) for pair in pairs]
        ),
    }
    effects = workspace.eval / "effects.parquet"
    if effects.is_file():
        tables["effects"] = _of_arms(read_table(effects, mend=MEND), arms)
    scores = score_table(workspace, runs_of(pairs), records)
    if scores is not None:
        tables["scores"] = scores
    return tables


def score_table(workspace: Workspace, runs: Sequence[str], records: pa.Table) -> pa.Table | None:
    """What was measured of each packed record under each run at its last step; None where nothing was."""
    tables = []
    for run in runs:
        step = read_config(workspace, run).train.steps
        tables += [read_table(path, mend=MEND) for path in score_files(workspace, run) if step_of(path) == step]
    return _of_records(pa.concat_tables(tables), records) if tables else None


def write_ledger(
    workspace: Workspace, folder: Path, runs: Sequence[str], records: pa.Table, renderings: pa.Table, *, blind: bool
) -> int:
    """Write the ledger of runs at their last step, a file for each part of it, of a blind release what is open; the rows."""
    count = 0
    ids = records.column("record_id").combine_chunks()
    names = pc.unique(renderings.column("rendering"))
    for run in runs:
        step = read_config(workspace, run).train.steps
        if read_marker(workspace.scores(run), str(step)) is None:
            continue
        number = 0
        for path in sorted(workspace.ledger(run, step).glob("*.parquet")):
            table = _of_records(read_table(path, mend=MEND), records)
            part = open_part("ledger", table, ids, names) if blind else table
            if part is not None and len(part):
                write_table(folder / f"{run}.{number:03d}.parquet", part)
                number, count = number + 1, count + len(part)
    return count


def _of_arms(effects: pa.Table, arms: pa.Array) -> pa.Table:
    """The effects whose sides are runs of some arms; what is found within one run has no control."""
    known = pa.array([*arms.to_pylist(), ""], pa.string())
    treated, control = (
        pc.is_in(pc.replace_substring_regex(effects.column(side), r"\.[^.]+(\.d[0-9]+)?$", ""), value_set=known)
        for side in ("treated", "control")
    )
    return effects.filter(pc.and_(treated, control))


def _of_records(table: pa.Table, records: pa.Table) -> pa.Table:
    """The rows that are of packed records."""
    wanted = records.column("record_id").combine_chunks()
    return table.filter(pc.is_in(table.column("record_id"), value_set=wanted))


def flat_records(records: pa.Table, guid: str) -> pa.Table:
    """The records with a column `field_<name>` for each of their fields, texts or lists of texts, and the canary."""
    names = records.column("record_id").to_pylist()
    flat = [_flat(*each) for each in zip(names, records.column("fields").to_pylist(), strict=True)]
    for name in sorted({name for row in flat for name in row}):
        values = [row.get(name) for row in flat]
        if any(isinstance(value, list) for value in values):
            lists = [value if isinstance(value, list) or value is None else [value] for value in values]
            records = records.append_column(name, pa.array(lists, pa.list_(pa.string())))
        else:
            records = records.append_column(name, pa.array(values, pa.string()))
    return _with_canary(records.drop_columns(["fields"]), guid)


def _flat(record_id: str, fields: str) -> dict[str, str | list[str]]:
    """Column → text or texts of one record.

    Raises:
        CostarError: two fields that would be one column.
    """
    found: dict[str, str | list[str]] = {}
    for name, value in _leaves("field", json.loads(fields)):
        if name in found:
            raise CostarError(
                f"record {record_id}",
                found=f"two fields that are both column {name} of a release",
                expected="fields whose names differ in more than signs and nesting",
                mend="rename one",
            )
        found[name] = value
    return found


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str | list[str]]]:
    """(column, text or texts) of a field: an object gives a column for each of its keys, a list of objects lists."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(f"{name}_{_plain_name(key)}", each)
    elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        for key in dict.fromkeys(key for each in value for key in each):
            yield f"{name}_{_plain_name(key)}", [_text(each.get(key)) for each in value]
    elif isinstance(value, list):
        yield name, [_text(each) for each in value]
    else:
        yield name, _text(value)


def _plain_name(key: str) -> str:
    return "".join(sign if sign.isalnum() else "_" for sign in key.lower())


def _text(value: Any) -> str:
    """A value as text; what is still nested has a line for each of its own."""
    if isinstance(value, dict | list):
        return "\n".join(_text(each) for each in (value.values() if isinstance(value, dict) else value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: ""}[value]
    return str(value)


def _with_canary(table: pa.Table, guid: str) -> pa.Table:
    """The table with a column `canary`: the line on test items, empty on others."""
    return table.append_column("canary", pc.if_else(pc.equal(table.column("risk"), RISK), guid, ""))


def _with_origin(renderings: pa.Table, records: pa.Table, guid: str) -> pa.Table:
    """The renderings with what they must carry of their records: perturbation, risk, licence, source, canary."""
    rows = pc.index_in(renderings.column("record_id"), value_set=records.column("record_id").combine_chunks())
    for name in ("perturbation", "risk", "licence", "source"):
        renderings = renderings.append_column(name, records.column(name).take(rows))
    return _with_canary(renderings, guid)


def corpus_recipe(suite: Suite, workspace: Workspace) -> pa.Table:
    """How the base is made again, a row for each source, without any of its text."""
    facts = corpus_facts(workspace)
    steps = read_table(workspace.corpus / "corpus_steps.parquet", mend=MEND).to_pylist()
    versions = read_facts(workspace.corpus / "source.json", (), mend=MEND)
    design = suite.corpus
    rows = []
    for source in design.sources:
        own = [row for row in steps if row["step"] == "base" and row["source"] == (source.name or row["source"])]
        rows.append(
            {
                "name": source.name or suite.name,
                "source": design.reuse or source.source,
                "paths": [Path(path).name if Path(path).is_absolute() else path for path in source.paths],
                "revisions": _revisions(versions.get("mixture", {}).get(source.name, versions)),
                "text_field": source.text,
                "share": None if source.share is None else str(source.share),
                "megabytes": source.megabytes,
                "documents": sum(row["documents"] for row in own) if own else None,
                "bytes": sum(row["bytes"] for row in own) if own else None,
                "licence": _corpus_licence(source),
                "quality": list(design.quality),
                "deduplicate": design.deduplicate,
                "held_out": str(design.held_out),
                "validation": str(design.validation),
                "sequence_length": facts["sequence_length"],
                "vocabulary": facts["vocab_size"],
                "corpus_documents": facts["documents"],
                "corpus_tokens": facts["tokens"],
                **{key: facts[key] for key in ("tokens_sha256", "tokenizer_sha256", "corpus_sha256")},
            }
        )
    return pa.table({name: [row[name] for row in rows] for name in RECIPE.names}, schema=RECIPE)


def _revisions(facts: Mapping[str, Any]) -> list[str]:
    """What a source's text depends on besides its files, one 'name version' each."""
    found = []
    for key, value in sorted(facts.items()):
        if isinstance(value, dict):
            found += [f"{name} {version}" for name, version in sorted(value.items())]
        elif isinstance(value, str):
            found.append(f"{key} {value}")
    return found


def _corpus_licence(source: SourceDesign) -> str | None:
    """The licence of a source's text where costar knows it."""
    return {"synthetic": "CC0-1.0", "installed-docs": "as each package's documentation"}.get(source.source)


def _exposures(workspace: Workspace, pairs: Sequence[Pair]) -> list[pa.Table]:
    runs = [RunName.parse(run) for run in runs_of(pairs)]
    return [read_exposures(workspace, arm, draw) for arm, draw in sorted({(run.arm, run.draw) for run in runs})]
