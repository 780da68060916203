"""Asking the manifest: a query or the name of a recipe, over a read-only connection that also sees the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from ..core.console import complain
from ..core.errors import CostarError, shorten
from ..core.workspace import Workspace

QUERIES = Path(__file__).with_name("queries")


def recipes() -> dict[str, str]:
    """The recipes of `manifests/queries/`: name to SQL, whose first comment says what it shows."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(QUERIES.glob("*.sql"))}


def recipe_title(text: str) -> str:
    return text.splitlines()[0].removeprefix("--").strip()


def open_manifest(workspace: Workspace) -> duckdb.DuckDBPyConnection:
    """A read-only connection with every table and view, and the ledger where there is one.

    Raises:
        CostarError: the manifest is missing or cannot be read.
    """
    path = workspace.manifest
    if not path.is_file():
        raise CostarError(
            str(path),
            found="no manifest",
            expected="a built suite",
            mend="run `costar insert` or `costar manifest` first",
        )
    try:
        connection = duckdb.connect(str(path), read_only=True)
    except duckdb.Error as error:
        raise CostarError(
            str(path), found=shorten(error), expected="a DuckDB file", mend="rebuild it: costar manifest"
        ) from None
    for table, pattern in (
        ("ledger", "ledger/*/*/*.parquet"),
        ("generated", "generated/*/*/*.parquet"),
        ("external_ledger", "external/*/ledger/*.parquet"),
        ("external_generated", "external/*/generated/*.parquet"),
    ):
        if any(workspace.eval.glob(pattern)):
            quoted = str(workspace.eval / pattern).replace("'", "''")
            view = f"create temp view {table} as select * from read_parquet('{quoted}', hive_partitioning=false)"
            try:
                connection.execute(view)
            except duckdb.Error as error:
                complain(f"{table}: {shorten(error)}; run `costar eval` again, it writes damaged files anew")
    return connection


def ask(connection: duckdb.DuckDBPyConnection, question: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of a query, or of the recipe of that name.

    Raises:
        CostarError: DuckDB refuses the query; its message is passed on.
    """
    query = recipes().get(question.strip(), question)
    if " " not in question.strip() and question.strip() not in recipes() and question.strip().isidentifier():
        query = f"from {question.strip()}"
    try:
        cursor = connection.execute(query)
        names = [column[0] for column in cursor.description or []]
        return names, cursor.fetchall()
    except duckdb.Error as error:
        raise CostarError(
            f"query {shorten(question, 60)!r}",
            found=str(error).splitlines()[0],
            expected=f"SQL, a table, or a recipe: {', '.join(recipes())}",
            mend="correct the query",
        ) from None
