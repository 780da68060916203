"""`manifest.duckdb`: a catalogue of the suite, rebuilt whole from Parquet, JSON and the suite file.

Built aside, closed, renamed. It holds no path outside itself and opens in DuckDB 1.x; the ledger is attached when a
connection is made.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ..core.console import complain
from ..core.design import RunName, Suite, earlier_exposure
from ..core.errors import CostarError, shorten
from ..core.hashing import canonical_json, sha256_json
from ..core.parquet import read_table
from ..core.registration import read_registered
from ..core.workspace import (
    DISK_FULL,
    Workspace,
    corpus_facts,
    explain_os_error,
    is_whole,
    output_lock,
    read_facts,
    read_marker,
    replacing,
    step_of,
)
from .lineage import checkpoint_rows, read_configs, stretches
from .tables import (
    ASSIGNMENTS,
    BALANCE,
    CORPUS_STEPS,
    COVERAGE,
    DATASET_INFERENCE,
    DOSE_FITS,
    DROPPED,
    EFFECTS,
    EXPOSURES,
    GAPS,
    HYPOTHESES,
    LOG,
    MEMBERSHIP,
    OCCURRENCES,
    RECORDS,
    RENDERINGS,
    RETENTION,
    SCORES,
    SPEED,
    VALIDATION,
)

RANDOMIZED = "randomized"  # the value of a factor that an arm randomizes per record; `assignments` has each one's
MEND_LOG = "run `costar train`, which writes it again from log.jsonl beside it"
CREATE = {
    "suite": "name varchar, seed bigint, draws bigint, spec_sha256 varchar, spec json, costar_version varchar, "
    "created_at timestamp",
    "corpus": "corpus varchar, source varchar, documents bigint, tokens bigint, sequences bigint, sequence_length bigint, "
    "vocab_size bigint, eos_id bigint, tokenizer_sha256 varchar, tokens_sha256 varchar, dropped bigint, "
    "dropped_sha256 varchar, corpus_sha256 varchar, validation_documents bigint, validation_tokens bigint",
    "perturbations": "perturbation varchar, kind varchar, risk varchar, records bigint, licence varchar, source varchar",
    "arms": "arm varchar, control varchar, parent_arm varchar, steps bigint, batch bigint, tokens bigint, filler varchar, "
    "init varchar, earlier_exposure varchar",
    "arm_perturbations": "arm varchar, perturbation varchar, rendering varchar, phase_start varchar, phase_end varchar, "
    "position varchar, spacing varchar",
    "models": "model varchar, parameters bigint, layers bigint, hidden bigint, heads bigint, kv_heads bigint, ffn bigint, "
    "vocab_size bigint",
    "runs": "run varchar, arm varchar, model varchar, draw bigint, parent_run varchar, branch_step integer, steps bigint, "
    "tokens bigint, status varchar, determinism varchar, config_sha256 varchar",
    "checkpoints": "run varchar, step integer, tokens bigint, path varchar, state_sha256 varchar, inherited boolean",
    "analysis": "sha256 varchar, plan json, runs_begun bigint",
    "external": "run varchar, source varchar, architecture varchar, parameters bigint, vocab_size bigint, "
    "tokenizer_sha256 varchar, weights_sha256 varchar",
}
EXTERNAL_KEYS = tuple(part.split()[0] for part in CREATE["external"].split(", "))


def build_manifest(suite: Suite, workspace: Workspace) -> Path:
    """Rebuild the manifest from everything that is present. A second writer waits: the last one sees all.

    Raises:
        CostarError: a file that it is made of is damaged, or the disk is full.
    """
    with output_lock(workspace.root, "manifest", wait=True), replacing(workspace.manifest) as temporary:
        temporary.unlink(missing_ok=True)
        connection = duckdb.connect()
        try:
            connection.execute(
                f"attach '{str(temporary).replace(chr(39), chr(39) * 2)}' as m (storage_version 'v1.0.0')"
            )
            connection.execute("use m")
            _fill(connection, suite, workspace)
            views = Path(__file__).with_name("views.sql").read_text(encoding="utf-8")
            for statement in views.split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute("use memory")
            connection.execute("detach m")
            connection.close()
        except duckdb.Error as error:
            raise _explain(error, workspace) from None
        finally:
            with contextlib.suppress(duckdb.Error):
                connection.close()
    return workspace.manifest


@contextlib.contextmanager
def manifest_after(suite: Suite, workspace: Workspace) -> Iterator[None]:
    """Rebuild the manifest after some work, however it ended; what ended the work is the error that is told."""
    try:
        yield
    except BaseException:
        try:
            build_manifest(suite, workspace)
        except (CostarError, OSError) as error:
            found = error.found if isinstance(error, CostarError) else str(error)
            complain(f"{workspace.manifest.name} was not rebuilt: {shorten(found)}")
        raise
    build_manifest(suite, workspace)


def _explain(error: duckdb.Error, workspace: Workspace) -> CostarError:
    """What DuckDB says, in the project's words."""
    for number in DISK_FULL:
        if os.strerror(number) in str(error):
            return explain_os_error(OSError(number, os.strerror(number), str(workspace.manifest)))
    return CostarError(
        str(workspace.manifest),
        found=shorten(error, 400),
        expected="files of the suite that DuckDB reads",
        mend="run the stage that wrote the file again",
        exit_code=1,
    )


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    connection.execute(f"create table {table} ({CREATE[table]})")
    if rows:
        connection.execute("begin")
        connection.executemany(f"insert into {table} values ({', '.join('?' * len(rows[0]))})", rows)
        connection.execute("commit")


def _load_files(connection: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema, paths: Sequence[Path]) -> None:
    """A table of whole Parquet files, read by DuckDB itself: they may hold millions of rows."""
    if not paths:
        _load(connection, table, schema, [])
        return
    columns = ", ".join(f"{name}::json as {name}" if name == "fields" else name for name in schema.names)
    connection.execute(
        f"create table {table} as select {columns} from read_parquet(?, hive_partitioning = false)",
        [[str(path) for path in paths]],
    )


def _load(connection: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema, parts: Sequence[pa.Table]) -> None:
    """A table of Parquet parts; an empty table of the same columns where there are none."""
    whole = pa.concat_tables([part.select(schema.names) for part in parts]) if parts else schema.empty_table()
    connection.register("part", whole)
    columns = ", ".join(f"{name}::json as {name}" if name == "fields" else name for name in schema.names)
    connection.execute(f"create table {table} as select {columns} from part")
    connection.unregister("part")


def _fill(connection: duckdb.DuckDBPyConnection, suite: Suite, workspace: Workspace) -> None:
    configs = read_configs(workspace)
    mend = "run the stage that wrote it again"
    _insert(connection, "suite", [_suite_row(suite)])
    _insert(connection, "corpus", _corpus_rows(workspace))
    registered = read_registered(workspace)
    analyses = [(each["sha256"], canonical_json(each["plan"]), each["runs_begun"]) for each in registered]
    _insert(connection, "analysis", analyses)
    _load_corpus(connection, workspace.corpus)
    has_records = is_whole(workspace.insertion, "records")
    has_insertion = is_whole(workspace.insertion, "insert")
    folder = workspace.insertion
    fillers = [path for path in [folder / "fillers.parquet"] if has_insertion and path.is_file()]
    records = [folder / "records.parquet"] if has_records else []
    renderings = [folder / "renderings.parquet"] if has_records else []
    _load_files(connection, "records", RECORDS, records + fillers)
    shown = pa.schema([f for f in RENDERINGS if f.name != "token_ids"])
    _load_files(connection, "renderings", shown, renderings + fillers)
    _insert(connection, "perturbations", _perturbation_rows(suite, connection))
    _insert(connection, "arms", [_arm_row(suite, name) for name in suite.arms])
    _insert(connection, "arm_perturbations", _arm_perturbation_rows(suite, connection))
    single = {"assignments": ASSIGNMENTS, "balance": BALANCE}
    for table, schema in single.items():
        _load_files(connection, table, schema, [folder / f"{table}.parquet"] if has_insertion else [])
    exposures = sorted((folder / "exposures").glob("arm=*/draw=*/exposures.parquet")) if has_insertion else []
    _load_files(connection, "exposures", EXPOSURES, exposures)
    _insert(connection, "models", _model_rows(configs))
    _insert(connection, "runs", _run_rows(suite, workspace, configs))
    _insert(connection, "checkpoints", checkpoint_rows(workspace, configs))
    logs = {run: workspace.run(run) / "log" / "log.parquet" for run in configs}
    parts = {run: [read_table(path, mend=MEND_LOG)] for run, path in logs.items() if path.is_file()}
    _load(connection, "log", LOG, _inherited(configs, parts, 1))
    held = {run: _spared(workspace.run(run) / "log" / "validation.parquet") for run in configs}
    held = {run: [_widened(part, VALIDATION) for part in parts] for run, parts in held.items()}
    _load(connection, "validation", VALIDATION, _inherited(configs, held, 0))
    speeds = [part for run in configs for part in _spared(workspace.run(run) / "speed" / "speed.parquet")]
    _load(connection, "speed", SPEED, [_widened(part, SPEED) for part in speeds])
    scores = {run: [read_table(path, mend=mend) for path in score_files(workspace, run)] for run in configs}
    _load(connection, "scores", SCORES, _inherited(configs, scores, 0))
    gaps = {run: [read_table(path, mend=mend) for path in score_files(workspace, run, "gaps")] for run in configs}
    _load(connection, "gaps", GAPS, _inherited(configs, gaps, 0))
    _load_external(connection, workspace)
    computed = {
        "effects": EFFECTS,
        "dose_fits": DOSE_FITS,
        "retention": RETENTION,
        "hypotheses": HYPOTHESES,
        "membership": MEMBERSHIP,
        "dataset_inference": DATASET_INFERENCE,
    }
    for table, schema in computed.items():
        path = workspace.eval / f"{table}.parquet"
        whole = [_widened(read_table(path, mend=mend), schema)] if path.is_file() else []
        _load(connection, table, schema, whole)


def _load_external(connection: duckdb.DuckDBPyConnection, workspace: Workspace) -> None:
    """Models from elsewhere: in tables of their own, as `scores` and `gaps` are of the suite's runs."""
    mend = "run `costar eval` for the model again"
    folders = [path.parent for path in sorted(workspace.eval.glob("external/*/external.json"))]
    folders = [folder for folder in folders if is_whole(folder, "external")]
    facts = [read_facts(folder / "external.json", EXTERNAL_KEYS, mend=mend) for folder in folders]
    _insert(connection, "external", [tuple(each[key] for key in EXTERNAL_KEYS) for each in facts])
    scores: list[Path] = []
    gaps: list[Path] = []
    for folder in folders:
        gaps += [folder / "gaps.parquet"] if is_whole(folder, "gaps") else []
        for path in sorted((folder / "scores").glob("*.*.parquet")):
            if is_whole(path.parent, f"{step_of(path)}.{path.stem.split('.', 1)[1]}"):
                (scores if path.name.startswith("step-") else gaps).append(path)
    for table, schema, paths in (("external_scores", SCORES, scores), ("external_gaps", GAPS, gaps)):
        _load(connection, table, schema, [read_table(path, mend=mend) for path in paths])


def _spared(path: Path) -> list[pa.Table]:
    """The table of a file that nothing can write again: none where it is missing, or, with a remark, damaged."""
    try:
        return [read_table(path, mend="")] if path.is_file() else []
    except CostarError:
        complain(f"{path}: damaged, so the manifest is without its rows")
        return []


def _widened(part: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns that it was written without, all of them unknown."""
    for field in schema:
        if field.name not in part.column_names:
            part = part.append_column(field, pa.nulls(len(part), field.type))
    return part


def _load_corpus(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """What the steps of the corpus dropped, and what of the records the stream holds by nature."""
    for step, table, schema in (
        ("tokens", "corpus_steps", CORPUS_STEPS),
        ("tokens", "dropped", DROPPED),
        ("occurrences", "occurrences", OCCURRENCES),
        ("occurrences", "coverage", COVERAGE),
    ):
        _load_files(connection, table, schema, [folder / f"{table}.parquet"] if is_whole(folder, step) else [])


def score_files(workspace: Workspace, run: str, what: str = "step") -> list[Path]:
    """The scores (or with "gaps" the gaps) of a run's checkpoints; those of a state that is no longer there are left out."""
    found = []
    for path in sorted(workspace.scores(run).glob(f"{what}-*.*.parquet")):
        step = step_of(path)
        marker = read_marker(path.parent, f"{step}.{path.stem.split('.', 1)[1]}")
        state = workspace.checkpoint(run, step or 0) / "state.json"
        if step is None or marker is None or not state.is_file():
            continue
        if read_facts(state, ["state_sha256"], mend="remove the checkpoint")["state_sha256"] == marker.get("state"):
            found.append(path)
    return found


def _inherited(configs: dict[str, dict[str, Any]], parts: dict[str, list[pa.Table]], offset: int) -> list[pa.Table]:
    """Each run's rows with those of its ancestors. A log row of step t (`offset` 1) belongs to checkpoints from t + 1."""
    import pyarrow.compute as pc

    found = []
    for run in configs:
        for stretch in stretches(configs, run):
            for part in parts.get(stretch.owner, []):
                step = pc.add(part.column("step"), offset)
                kept = part.filter(pc.and_(pc.greater(step, stretch.after), pc.less_equal(step, stretch.upto)))
                if stretch.owner != run:
                    kept = kept.set_column(0, "run", pa.array([run] * len(kept), pa.string()))
                found.append(kept)
    return found


def _suite_row(suite: Suite) -> tuple[Any, ...]:
    created = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)
    version = importlib.metadata.version("costar")
    spec = dict(suite.spec)
    return (suite.name, suite.seed, suite.draws, sha256_json(spec), canonical_json(spec), version, created)


def _corpus_rows(workspace: Workspace) -> list[tuple[Any, ...]]:
    if read_marker(workspace.corpus, "tokens") is None:
        return []
    facts = corpus_facts(workspace)
    names = [part.split()[0] for part in CREATE["corpus"].split(", ")]
    return [tuple(facts[name] for name in names)]


def _perturbation_rows(suite: Suite, connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    risks = dict(connection.execute("select perturbation, min(risk) from records group by all").fetchall())
    return [(p.name, p.kind, risks.get(p.name), p.records, p.licence, p.origin) for p in suite.perturbations.values()]


def _arm_row(suite: Suite, name: str) -> tuple[Any, ...]:
    arm = suite.arms[name]
    tokens = arm.train.slots * suite.corpus.sequence_length
    place = (arm.name, arm.control, arm.parent, arm.train.steps, arm.train.batch, tokens, arm.filler)
    return (*place, arm.init, earlier_exposure(name, suite.arms))


def _arm_perturbation_rows(suite: Suite, connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    canonical = dict(
        connection.execute(
            "select rec.perturbation, min(ren.rendering) from records rec join renderings ren "
            "on ren.record_id = rec.record_id and ren.text = rec.text where rec.role = 'main' group by all"
        ).fetchall()
    )
    rows = []
    for arm in suite.arms.values():
        for name in arm.inserted:
            factors, phases = arm.factors[name], arm.phases(name)
            ends = (str(min(start for start, _ in phases)), str(max(end for _, end in phases)))
            values = {
                key: {getattr(each, key) or canonical.get(name) for each in factors}
                for key in ("rendering", "position", "spacing")
            }
            rendering, *rest = (one.pop() if len(one) == 1 else RANDOMIZED for one in values.values())
            rows.append((arm.name, name, rendering, *ends, *rest))
    return rows


def _model_rows(configs: dict[str, dict[str, Any]]) -> list[tuple[Any, ...]]:
    from ..core.models import ModelShape

    rows = {}
    for config in configs.values():
        shape = ModelShape(**config["shape"])
        values = (
            shape.parameters,
            shape.layers,
            shape.hidden,
            shape.heads,
            shape.kv_heads,
            shape.ffn,
            shape.vocab_size,
        )
        rows[config["model"]] = (config["model"], *values)
    return [rows[name] for name in sorted(rows)]


def _run_rows(suite: Suite, workspace: Workspace, configs: dict[str, dict[str, Any]]) -> list[tuple[Any, ...]]:
    rows = []
    for name in [*map(str, suite.runs()), *(run for run in configs if run not in set(map(str, suite.runs())))]:
        parsed = RunName.parse(name)
        config = configs.get(name)
        if config is None:
            arm = suite.arms[parsed.arm]
            tokens = arm.train.slots * suite.corpus.sequence_length
            rows.append(
                (
                    name,
                    parsed.arm,
                    parsed.model,
                    parsed.draw,
                    None,
                    None,
                    arm.train.steps,
                    tokens,
                    "planned",
                    None,
                    None,
                )
            )
            continue
        steps, length = config["train"]["steps"], config["sequence_length"]
        identity = workspace.run(name) / "identity.json"
        determinism = (
            read_facts(identity, ["determinism"], mend="remove it and train the run again")["determinism"]
            if identity.is_file()
            else None
        )
        finished = any(row[1] == steps for row in checkpoint_rows(workspace, configs) if row[0] == name)
        values = (config["parent_run"], config["branch_step"], steps, steps * config["train"]["batch"] * length)
        status = "finished" if finished else "training"
        rows.append(
            (name, parsed.arm, parsed.model, parsed.draw, *values, status, determinism, config["config_sha256"])
        )
    return rows
