"""Records one by one: their tokens as both models of a pair see them, and a line for every record, or for a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from ..core.analysis import NLL
from ..core.errors import CostarError, shorten
from ..core.hashing import keyed_hash
from ..core.workspace import Workspace
from ..corpus.reading import open_tokenizer
from ..manifests.lineage import read_configs, stretches
from .report_data import Measured, Row

PER_CELL = 12  # records of each perturbation and level whose tokens are shown, where the tokens do not run out before
MOST_TOKENS = 25_000  # over all of them
LONGEST = 400  # tokens of a record that are shown
MOST_RECORDS = 2_000  # lines of the table
RECORD_COLUMNS = ("record", "perturbation", "copies", "tokens", "control", "treated", "difference")


@dataclass(frozen=True, kw_only=True)
class Browsed:
    """What the page embeds: records with tokens, the lines of the table, and what was left out, in words."""

    browser: dict[str, Any]
    lines: list[list[Any]]
    note: str


def browse(measured: Measured, workspace: Workspace) -> Browsed:
    """Records of each perturbation's main pair in draw 0: a keyed sample of each level where there are many."""
    records = _records(measured)
    cells: dict[tuple[str, int], list[Row]] = {}
    for row in records:
        cells.setdefault((row["perturbation"], row["level"]), []).append(row)
    order = list(measured.suite.perturbations)
    keys = sorted(cells, key=lambda cell: (order.index(cell[0]), -cell[1]))
    for key in keys:
        cells[key].sort(key=lambda row: keyed_hash("browser", row["record_id"]))
    listed = _sample(keys, cells, MOST_RECORDS)
    with_tokens = _within(keys, cells)
    losses = _losses(measured, [row["record_id"] for row in listed])
    lines = []
    for row in sorted(listed, key=lambda row: (order.index(row["perturbation"]), -row["level"], row["record_id"])):
        values = losses.get(row["record_id"], (None, None))
        control, treated = values
        difference = None if control is None or treated is None else round(treated - control, 4)
        rounded = [None if value is None else round(value, 4) for value in values]
        lines.append([row["record_id"], row["perturbation"], row["level"], row["n_tokens"], *rounded, difference])
    note = ""
    if len(listed) < len(records):
        note = (
            f"{len(listed):,} of {len(records):,} records: of each perturbation and level those that come first by keyed hash; "
            "the rest by SQL (record_scores)"
        )
    shown, tokens = _tokens(measured, workspace, with_tokens)
    return Browsed(browser={"records": shown, "tokens": tokens}, lines=lines, note=note)


def _records(measured: Measured) -> list[Row]:
    """Main records with their level in draw 0 of their perturbation's main arm; without such an arm they are left out."""
    found = []
    for name in measured.suite.perturbations:
        arm = measured.main_arm(name)
        if arm is not None:
            query = (
                "select r.record_id, r.perturbation, a.level, r.n_tokens, ? as treated, ? as control from records r join "
                "assignments a using (record_id) where r.role = 'main' and r.perturbation = ? and a.arm = ? and a.draw = 0 "
                "order by r.record_id"
            )
            found += measured.rows(query, [arm.name, arm.control, name, arm.name])
    return found


def _sample(keys: Sequence[tuple[str, int]], cells: dict[tuple[str, int], list[Row]], most: int) -> list[Row]:
    """Everything where it is few enough, else as many of each cell as fit."""
    if sum(map(len, cells.values())) <= most:
        return [row for key in keys for row in cells[key]]
    each = max(1, most // len(keys))
    return [row for key in keys for row in cells[key][:each]]


def _within(keys: Sequence[tuple[str, int]], cells: dict[tuple[str, int], list[Row]]) -> list[Row]:
    """Records of each cell in turn, until there are PER_CELL of each or no tokens left; at least one of each."""
    chosen, tokens = [], 0
    for number in range(PER_CELL):
        for key in keys:
            if number < len(cells[key]) and (number == 0 or tokens < MOST_TOKENS):
                chosen.append(cells[key][number])
                tokens += min(LONGEST, cells[key][number]["n_tokens"])
    return chosen


def _losses(measured: Measured, ids: Sequence[str]) -> dict[str, tuple[float | None, float | None]]:
    """Record → loss of control and treated in draw 0, at their last common step."""
    found: dict[str, list[float | None]] = {}
    for name in measured.suite.perturbations:
        arm = measured.main_arm(name)
        if arm is None:
            continue
        step = _step(measured, arm.name, arm.control or "")
        query = (
            "select record_id, arm, value from record_scores where probe = ? and variant = ? and metric = ? and role = 'main' "
            "and perturbation = ? and model = ? and draw = 0 and step = ? and arm in (?, ?) and isfinite(value) order by all"
        )
        wanted = set(ids)
        for row in measured.rows(query, [*NLL, name, measured.model, step, arm.name, arm.control]):
            if row["record_id"] in wanted:
                found.setdefault(row["record_id"], [None, None])[row["arm"] == arm.name] = row["value"]
    return {record: (values[0], values[1]) for record, values in found.items()}


def _step(measured: Measured, *arms: str) -> int:
    return min(measured.last[(arm, measured.model)] for arm in arms)


def _tokens(
    measured: Measured, workspace: Workspace, chosen: Sequence[Row]
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Token ids and log-probabilities (hundredths of a nat) of both sides, and the texts of the tokens."""
    by_pair: dict[tuple[str, str], list[str]] = {}
    for row in chosen:
        by_pair.setdefault((row["control"], row["treated"]), []).append(row["record_id"])
    ledgers: dict[tuple[str, str], list[dict[str, tuple[list[int], list[int]]]]] = {}
    for pair, ids in by_pair.items():
        step = _step(measured, *pair)
        ledgers[pair] = [_ledger(measured, workspace, f"{arm}.{measured.model}.d0", step, ids) for arm in pair]
    shown = []
    for row in chosen:
        record_id = row["record_id"]
        first, second = (side.get(record_id) for side in ledgers[(row["control"], row["treated"])])
        if first and second and first[0] == second[0]:
            place = {"id": record_id, "level": row["level"], "kind": row["perturbation"], "n": row["n_tokens"]}
            names = {"control": row["control"], "treated": row["treated"]}
            shown.append(place | names | {"t": first[0], "a": first[1], "b": second[1]})
    order = list(measured.suite.perturbations)
    shown.sort(key=lambda each: (order.index(each["kind"]), -each["level"]))
    used = sorted({token for each in shown for token in each["t"]})
    if not used:
        return [], {}
    tokenizer = open_tokenizer(measured.suite.corpus, workspace.corpus)
    return shown, {token: tokenizer.decode([token]) for token in used}


def _ledger(
    measured: Measured, workspace: Workspace, run: str, step: int, ids: Sequence[str]
) -> dict[str, tuple[list[int], list[int]]]:
    """The first tokens of records in their canonical rendering, as the run that wrote a checkpoint left them."""
    configs = read_configs(workspace)
    owner = next((s.owner for s in stretches(configs, run) if s.after < step <= s.upto), run) if run in configs else run
    files = sorted(map(str, workspace.ledger(owner, step).glob("*.parquet")))
    if not files:
        return {}
    query = (
        "select l.record_id, l.token_id, l.logp from read_parquet(?, hive_partitioning = false) l join "
        "(select r.record_id, min(n.rendering) as rendering from records r join renderings n on n.record_id = r.record_id and "
        "n.text = r.text where r.record_id in (select unnest(?)) group by all) c "
        "on c.record_id = l.record_id and c.rendering = l.rendering "
        "where l.record_id in (select unnest(?)) and l.context = 'eos' and isfinite(l.logp) and l.position < ? "
        "order by l.record_id, l.position"
    )
    try:
        rows = measured.connection.execute(query, [files, list(ids), list(ids), LONGEST]).fetchall()
    except duckdb.Error as error:
        raise CostarError(
            f"ledger of {run} at step {step}",
            found=shorten(error),
            expected="Parquet files of the ledger",
            mend="run `costar eval` again",
        ) from None
    found: dict[str, tuple[list[int], list[int]]] = {}
    for record_id, token_id, logp in rows:
        tokens, values = found.setdefault(record_id, ([], []))
        tokens.append(token_id)
        values.append(int(np.round(logp * 100)))
    return found
