"""A pair as a benchmark of open-unlearning: an overlay of Hydra files, the data that they name, and the logs of the gold model.

`release/open-unlearning/<arm>-d<draw>/` holds `configs/` (given with `--config-dir`; nothing of open-unlearning is
changed), `data/*.jsonl` for its CompletionDataset, and `gold/<scope>/MUSE_EVAL.json`, made from costar's ledger: the control
is a model that never read what is to be forgotten, so nothing has to be run to have its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow.compute as pc

from ...core.design import RunName, Suite
from ...core.errors import CostarError
from ...core.workspace import Workspace, read_marker, replacing, write_json, write_text
from ...corpus.reading import corpus_eos, open_store, open_tokenizer
from ...eval.ledger import by_key
from ...eval.probes import EOS, Tokens
from ...eval.stored import read_ledger
from ...insertion.build import require_insertion
from ...insertion.records import read_records
from ..chosen import Chosen
from ..folders import built_from, pair_folder, pairs_of, write_folder
from ..membership import membership_rows
from ..pages import rendered, yaml_text
from ..unlearning_configs import SCOPES, overlay_configs
from ..unlearning_sets import (
    LONGEST_HEAD,
    Row,
    Sets,
    divided,
    halved_rows,
    memorization_logs,
    min_k_logs,
    record_rows,
    retained_rows,
)

OPTIONS = ("model",)
FOLDER = "open-unlearning"
MOST_NEW_TOKENS = 128
Ledger = dict[tuple[str, str, str], Tokens]


def write(suite: Suite, workspace: Workspace, chosen: Chosen) -> list[Path]:
    """Write the overlays of an arm's pairs of one draw.

    Raises:
        CostarError: an arm that is not the treated one of a pair, a run that was not measured at its last step, or another
            writer.
    """
    pairs = pairs_of(suite, chosen)
    require_insertion(suite, workspace)
    return [_write_pair(suite, workspace, treated, control) for treated, control in pairs]


def _write_pair(suite: Suite, workspace: Workspace, treated: RunName, control: RunName) -> Path:
    step = suite.arms[treated.arm].train.steps
    name = pair_folder(suite, treated)
    ledgers = {run: read_ledger(workspace, str(run), step) for run in (treated, control)}
    measured = [read_marker(workspace.scores(str(run)), f"{step}.likelihood") for run in (treated, control)]
    inputs = [str(treated), str(control), step, suite.seed, built_from(workspace), measured]

    def fill(folder: Path) -> None:
        known = [by_key(table.filter(pc.equal(table.column("context"), EOS))) for table in ledgers.values()]
        rows = measured_rows(suite, workspace, treated, known)
        sets = divided(rows, treated.arm, treated.draw)  # no seed: `costar score` has none
        _write_data(suite, workspace, folder, sets)
        _write_gold(folder, sets, *known)
        _write_configs(folder, f"{FOLDER}/{name}", treated, control, suite.corpus.sequence_length)
        page = rendered(
            "open_unlearning.md.j2",
            suite=suite.name,
            treated=treated,
            control=control,
            step=step,
            name=name,
            counts={key: len(value) for key, value in vars(sets).items()},
        )
        write_text(folder / "README.md", page)

    return write_folder(workspace, FOLDER, name, inputs, fill)


def measured_rows(suite: Suite, workspace: Workspace, treated: RunName, ledgers: Sequence[Ledger]) -> list[Row]:
    """The records of a pair in the text that the arm inserts; in their canonical one where only that was measured, as with
    rewordings, of which every copy is another text.

    Raises:
        CostarError: a record that was not measured, or not in numbers.
    """
    records, renderings = read_records(workspace.insertion)
    canonical = dict(zip(records.column("record_id").to_pylist(), records.column("text").to_pylist(), strict=True))
    names = {
        (row["record_id"], row["text"]): row["rendering"] for row in renderings.drop(["spans", "token_ids"]).to_pylist()
    }
    rows = []
    for row in membership_rows(suite, workspace, treated.arm, treated.model, treated.draw).to_pylist():
        if not all((row["record_id"], row["rendering"], EOS) in ledger for ledger in ledgers):
            text = canonical[row["record_id"]]
            row |= {"text": text, "rendering": names[(row["record_id"], text)]}
        found = [ledger.get((row["record_id"], row["rendering"], EOS)) for ledger in ledgers]
        if not all(each is not None and each.is_finite for each in found):
            raise CostarError(
                f"ledger of {treated}",
                found=f"no numbers for {row['record_id']}",
                expected="every record, measured of both models of the pair",
                mend='name "likelihood" in [eval] probes and run `costar eval`; a run without numbers must be trained again',
            )
        rows.append(row)
    return rows


def _write_data(suite: Suite, workspace: Workspace, folder: Path, sets: Sets) -> None:
    eos = corpus_eos(suite.corpus, workspace.corpus)
    tokenizer = open_tokenizer(suite.corpus, workspace.corpus)
    every = inserted(sets)
    whole = {"forget_half": sets.forget, "forget_all": every, "keep_half": sets.keep, "holdout": sets.holdout}
    for name, rows in whole.items():
        _write_jsonl(folder / "data" / f"{name}.jsonl", record_rows(rows, eos))
    for name in ("forget_half", "forget_all"):
        _write_jsonl(folder / "data" / f"{name}_continued.jsonl", halved_rows(whole[name], tokenizer, eos))
    retained = retained_rows(open_store(workspace.corpus), tokenizer, suite.corpus.sequence_length, eos, suite.seed)
    _write_jsonl(folder / "data" / "retain.jsonl", retained)


def inserted(sets: Sets) -> list[Row]:
    """Both halves, in the order of the records."""
    return sorted([*sets.forget, *sets.keep], key=lambda row: str(row["record_id"]))


def _write_gold(folder: Path, sets: Sets, treated: Ledger, control: Ledger) -> None:
    """The logs that open-unlearning compares with: what is to be forgotten as the control has it, what is kept as the
    treated model has it."""
    for scope, forget in zip(SCOPES, (inserted(sets), sets.forget), strict=True):
        known = _tokens(forget, control)
        logs = memorization_logs("", known) | min_k_logs(known, _tokens(sets.holdout, control))
        if scope == "half":
            logs |= memorization_logs("keep_", _tokens(sets.keep, treated))
        write_json(folder / "gold" / scope / "MUSE_EVAL.json", logs)


def _tokens(rows: Iterable[Row], ledger: Ledger) -> list[Tokens]:
    return [ledger[(row["record_id"], row["rendering"], EOS)] for row in rows]


def _write_configs(folder: Path, place: str, treated: RunName, control: RunName, length: int) -> None:
    new_tokens = max(1, min(MOST_NEW_TOKENS, length - 1 - LONGEST_HEAD, length // 2))
    for path, (package, value) in overlay_configs(place, str(treated), str(control), length, new_tokens).items():
        head = f"# @package {package}\n" if package else ""
        write_text(folder / "configs" / f"{path}.yaml", head + yaml_text(value))


def _write_jsonl(path: Path, rows: Iterable[Row] | Sequence[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
