from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace, finish_step
from costar.manifests.catalogue import build_manifest, manifest_after
from costar.manifests.sql import QUERIES, ask, open_manifest, recipe_title, recipes

CONTRACT = {
    "suite": "name, seed, draws, spec_sha256, spec, costar_version, created_at",
    "corpus": "corpus, source, documents, tokens, sequences, sequence_length, vocab_size, eos_id, tokenizer_sha256, "
    "tokens_sha256",
    "perturbations": "perturbation, kind, risk, records, licence, source",
    "records": "record_id, perturbation, kind, risk, role, cluster_id, stratum, text, fields, n_tokens, n_bytes, licence, source",
    "renderings": "record_id, rendering, text, n_tokens, n_bytes, spans",
    "arms": "arm, control, parent_arm, steps, tokens, filler",
    "arm_perturbations": "arm, perturbation, rendering, phase_start, phase_end, position, spacing",
    "assignments": "arm, draw, record_id, level, split",
    "exposures": "arm, draw, record_id, copy, rendering, slot, sequence, step, row, start, length, displaced, "
    "at_boundary, attempt",
    "models": "model, parameters, layers, hidden, heads, kv_heads, ffn, vocab_size",
    "runs": "run, arm, model, draw, parent_run, branch_step, steps, tokens, status, determinism, config_sha256",
    "checkpoints": "run, step, tokens, path, state_sha256, inherited",
    "log": "run, step, tokens, loss, lr, grad_norm, data_digest",
    "speed": "run, step, seconds, tokens_per_second, mfu",
    "validation": "run, step, tokens, loss",
    "balance": "perturbation, draw, stratum, level, records, clusters, mean_tokens, std_difference",
    "scores": "run, step, record_id, rendering, probe, variant, metric, value",
    "effects": "estimand, probe, variant, metric, perturbation, model, treated, control, level, step, n, n_clusters, n_runs, "
    "estimate, ci_low, ci_high, p_value, p_adjusted, method",
    "membership": "run, step, perturbation, labels, level, attack, tier, reference, gate, n_members, n_nonmembers, n_runs, auc, "
    "ci_low, ci_high, p_value, p_adjusted, tpr_01, tpr_01_low, tpr_01_high, fpr_01, method",
    "dataset_inference": "run, step, perturbation, labels, level, gate, n, n_features, p_value, method",
    "dose_response": "run, arm, model, draw, step, perturbation, level, probe, variant, metric, n, mean",
    "paired": "treated, control, step, record_id, level, probe, variant, metric, treated_value, control_value, difference",
    "forgetting": "run, step, record_id, level, tokens_since, probe, variant, metric, value",
    "dose_at_step": "run, step, record_id, copies",
    "ledger": "run, step, record_id, rendering, context, position, token_id, n_bytes, logp, rank, top1, "
    "mean_logp, var_logp, lse_top40",
}


@pytest.mark.parametrize("table", CONTRACT)
def test_every_table_and_view_of_the_contract_has_its_columns_and_rows(built: Path, table: str) -> None:
    connection = open_manifest(Workspace(built))
    names, rows = ask(connection, f"select * from {table} limit 3")
    connection.close()
    assert set(CONTRACT[table].split(", ")) <= set(names)
    assert rows


def test_types_are_those_of_the_contract(built: Path) -> None:
    connection = open_manifest(Workspace(built))
    query = "select table_name || '.' || column_name, data_type from information_schema.columns"
    types = dict(connection.execute(query).fetchall())
    connection.close()
    assert types["records.fields"] == "JSON"
    assert types["exposures.slot"] == types["corpus.tokens"] == "BIGINT"
    assert types["exposures.step"] == types["assignments.level"] == types["exposures.start"] == "INTEGER"
    assert types["scores.value"] == "DOUBLE"
    assert types["arm_perturbations.phase_start"] == "VARCHAR"
    assert (
        types["renderings.spans"].replace('"', "").replace("end", "end")
        == "STRUCT(attribute VARCHAR, start INTEGER, end INTEGER)[]"
    )


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_runs_and_says_what_it_shows(built: Path, name: str) -> None:
    assert len(recipe_title(recipes()[name])) > 20
    connection = open_manifest(Workspace(built))
    _, rows = ask(connection, name)
    connection.close()
    assert rows or name in ("gaps", "findings", "equal_loss")  # the small suite has none, no hypotheses, one size


def test_inherited_checkpoints_scores_and_logs_stand_under_their_heir(built: Path) -> None:
    connection = open_manifest(Workspace(built))
    inherited = "select run, step, path from checkpoints where inherited order by step"
    rows = connection.execute(inherited).fetchall()
    assert {run for run, _, _ in rows} == {"late.nano.d0"}
    assert all(path.startswith("runs/standard.nano.d0/") for _, _, path in rows)
    steps = connection.execute("select distinct step from scores where run = 'late.nano.d0' order by 1").fetchall()
    assert steps == [(24,), (48,), (72,), (96,)]
    assert connection.execute("select count(*) from log where run = 'late.nano.d0'").fetchone() == (96,)
    connection.close()


def test_dose_at_step_counts_the_copies_of_earlier_steps(built: Path) -> None:
    connection = open_manifest(Workspace(built))
    query = """
        select sum(copies), (select count(*) from exposures where arm = 'early' and step < 24)
        from dose_at_step where run = 'early.nano.d0' and step = 24
    """
    counted, expected = connection.execute(query).fetchone() or (0, 1)
    assert counted == expected > 0
    last = "select sum(copies) from dose_at_step where run = 'early.nano.d0' and step = 96"
    assert connection.execute(last).fetchone() == (180,)
    connection.close()


def test_tokens_since_is_the_distance_to_the_last_copy(built: Path) -> None:
    connection = open_manifest(Workspace(built))
    query = """
        select f.tokens_since, (f.step * 8 - max(e.slot) - 1) * 128
        from forgetting f join exposures e on e.record_id = f.record_id and e.arm = 'early'
        where f.run = 'early.nano.d0' and f.step = 96 and f.metric = 'nll_token'
        group by f.record_id, f.step, f.tokens_since
    """
    rows = connection.execute(query).fetchall()
    connection.close()
    assert len(rows) == 24
    assert all(found == expected >= 48 * 8 * 128 - 128 for found, expected in rows)


def test_rebuilding_gives_the_same_rows(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    tables = [name for name in CONTRACT if name not in ("suite", "ledger")]

    def rows() -> dict[str, list[str]]:
        connection = open_manifest(workspace)
        found = {t: sorted(map(str, connection.execute(f"select * from {t}").fetchall())) for t in tables}
        connection.close()
        return found

    before = rows()
    build_manifest(load_suite(built_copy / "suite.toml"), workspace)
    assert rows() == before


def test_the_manifest_is_read_only_and_holds_no_path_outside_itself(built: Path) -> None:
    connection = open_manifest(Workspace(built))
    with pytest.raises(CostarError, match="read-only"):
        ask(connection, "delete from runs")
    connection.close()
    data = (built / "manifest.duckdb").read_bytes()
    assert str(built.parent.parent).encode() not in data


def test_text_of_records_is_data(built_copy: Path) -> None:
    """A record that looks like SQL is stored, found and printed as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = built_copy / "insertion" / "records.parquet"
    table = pq.read_table(path, partitioning=None)
    rows = table.to_pylist()
    rows[0]["text"] = "'); drop table runs; --"
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    finish_step(path.parent, "", [path, path.with_name("renderings.parquet")], "records")
    build_manifest(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    connection = open_manifest(Workspace(built_copy))
    assert ask(connection, "select text from records where text like '%drop%'")[1] == [("'); drop table runs; --",)]
    assert len(ask(connection, "runs")[1]) == 4
    connection.close()


def test_a_missing_and_a_damaged_manifest_are_named(built_copy: Path) -> None:
    path = built_copy / "manifest.duckdb"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CostarError, match="costar manifest"):
        open_manifest(Workspace(built_copy))
    path.unlink()
    with pytest.raises(CostarError, match="no manifest"):
        open_manifest(Workspace(built_copy))


@pytest.mark.slow
def test_a_duckdb_1_client_reads_tables_views_and_recipes(built: Path) -> None:
    """A real DuckDB 1.x in a process of its own, where `make test-slow` could install one."""
    client = Path(sys.prefix) / "duckdb1"
    if not client.is_dir():
        pytest.skip("no DuckDB 1.x client")
    code = (
        f"import sys; sys.path.insert(0, {str(client)!r}); import duckdb; assert duckdb.__version__.startswith('1.')\n"
        f"c = duckdb.connect({str(built / 'manifest.duckdb')!r}, read_only=True)\n"
        "tables = [r[0] for r in c.execute('select table_name from information_schema.tables').fetchall()]\n"
        "assert len(tables) >= 22, tables\n"
        "for t in tables: c.execute(f'select * from {t}').fetchall()\n"
        f"import pathlib\nfor p in pathlib.Path({str(QUERIES)!r}).glob('*.sql'): c.execute(p.read_text()).fetchall()\n"
        "print('read')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "read", done.stderr


def test_the_storage_version_is_one_that_old_clients_read(built: Path) -> None:
    connection = duckdb.connect(str(built / "manifest.duckdb"), read_only=True)
    tags = connection.execute("select tags from duckdb_databases() where database_name = 'manifest'").fetchone()
    connection.close()
    assert tags is not None
    assert "v1.0.0" in str(tags[0])


def test_the_error_that_ended_the_work_is_told_alone(built_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (built_copy / "eval" / "effects.parquet").write_bytes(b"cut")
    suite = load_suite(built_copy / "suite.toml")
    with pytest.raises(OSError, match="first"), manifest_after(suite, Workspace(built_copy)):
        raise OSError("first")
    assert capsys.readouterr().err.count("\n") == 1
