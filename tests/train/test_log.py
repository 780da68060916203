"""What a run writes while it trains: readable at every moment, cut at a checkpoint, whole after kills."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.corpus.store import TokenStore
from costar.manifests.catalogue import build_manifest
from costar.manifests.sql import open_manifest
from costar.train.branch import inherited_rows
from costar.train.config import RunConfig, read_config
from costar.train.log import (
    TAIL,
    RunLog,
    SpeedLog,
    last_log_row,
    read_if_whole,
    read_log_rows,
    tail_rows,
)
from costar.train.loop import train_run
from costar.train.progress import RunProgress, progress_text, read_progress, status_text, step_flops, time_left
from costar.train.validation import TOKENS, ValidationLog, validation_sequences

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def row(step: int) -> dict[str, Any]:
    digest = f"{step:032x}"
    return {"run": "r", "step": step, "tokens": step, "loss": 3.0, "lr": 0.1, "grad_norm": 1.0, "data_digest": digest}


def steps_of(path: Path) -> list[int]:
    found: list[int] = pq.read_table(path, partitioning=None).column("step").to_pylist()
    return found


def test_a_log_is_read_while_it_grows_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = workspace.run("r") / "log"
    assert last_log_row(workspace, "r") is None
    log = RunLog.open(folder, 0)
    for step in range(200):  # more than the tail that is read
        log.append(row(step))
        assert last_log_row(workspace, "r") == row(step)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"run": "r", "step": 2')
    assert last_log_row(workspace, "r") == row(199)
    assert read_log_rows(workspace, "r") == [row(step) for step in range(200)]
    tail = tail_rows(folder / "log.jsonl")
    assert (folder / "log.jsonl").stat().st_size > TAIL
    assert tail == [row(step) for step in range(200 - len(tail), 200)]
    assert len(tail) >= 20


@pytest.mark.parametrize("lost", [None, "log.jsonl", "log.parquet"])
def test_a_resumed_log_holds_every_step_once_whichever_file_was_lost(tmp_path: Path, lost: str | None) -> None:
    log = RunLog.open(tmp_path, 0)
    for step in range(7):
        if step == 5:
            log.save()
        log.append(row(step))
    if lost:
        (tmp_path / lost).unlink()
    again = RunLog.open(tmp_path, 5)
    assert [each["step"] for each in again.rows] == list(range(5))
    again.append(row(5))
    again.save()
    assert steps_of(tmp_path / "log.parquet") == list(range(6))


def test_speed_outlives_a_kill_and_has_a_utilization_only_where_the_peak_is_known(built: Path, tmp_path: Path) -> None:
    config = read_config(Workspace(built), "standard.nano.d0")
    tokens = config.train.batch * config.sequence_length
    speed = SpeedLog.open(tmp_path, config, 0, device=H100, devices=2)
    for step in range(4):
        speed.add(step, 0.5)
    expected = tokens / 0.5 * config.shape.flops_per_token(config.sequence_length) / (2 * 989e12)
    again = SpeedLog.open(tmp_path, config, 3, device="x86_64", devices=1)  # killed before any checkpoint but step 3's
    again.add(3, 0.0)
    again.save()
    again.save()
    rows = pq.read_table(tmp_path / "speed.parquet", partitioning=None).to_pylist()
    assert [each["step"] for each in rows] == [0, 1, 2, 3]
    assert rows[0]["mfu"] == pytest.approx(expected)
    assert rows[0]["tokens_per_second"] == 2 * tokens
    assert rows[3]["mfu"] is None


def test_a_run_that_goes_on_from_an_earlier_checkpoint_has_each_step_once_everywhere(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    folder = workspace.run("early.nano.d0")
    before = {name: (folder / "log" / name).read_bytes() for name in ("log.parquet", "validation.parquet")}
    for step in (96, 72):
        shutil.rmtree(workspace.checkpoint("early.nano.d0", step))
    train_run(workspace, "early.nano.d0")
    assert {name: (folder / "log" / name).read_bytes() for name in before} == before
    assert steps_of(folder / "speed" / "speed.parquet") == list(range(96))


def test_a_branch_sees_the_rows_of_its_ancestors_up_to_where_it_begins(built: Path) -> None:
    workspace = Workspace(built)
    config = read_config(workspace, "late.nano.d0")
    rows = inherited_rows(workspace, config)
    assert [each["step"] for each in rows] == list(range(48))
    assert {each["run"] for each in rows} == {"standard.nano.d0"}
    assert inherited_rows(workspace, read_config(workspace, "standard.nano.d0")) == []


def test_validation_sequences_are_the_first_of_the_validation_documents(built: Path, tmp_path: Path) -> None:
    workspace = Workspace(built)
    tokens = np.asarray(TokenStore.open_prefix(workspace.corpus / "validation", mend="").tokens, np.int64)
    for length in (128, 8):
        ids = validation_sequences(workspace, length)
        assert ids is not None
        count = min((len(tokens) - 1) // length, TOKENS // length)
        assert ids.shape == (count, length + 1)
        assert np.array_equal(ids[:, :-1].ravel(), tokens[: count * length])
        assert np.array_equal(ids[:-1, -1], ids[1:, 0])
    assert validation_sequences(workspace, len(tokens)) is None
    assert validation_sequences(workspace, len(tokens) - 1) is not None
    assert validation_sequences(Workspace(tmp_path), 128) is None


def test_every_kept_checkpoint_of_a_run_has_a_validation_loss_and_branches_inherit_theirs(built: Path) -> None:
    connection = open_manifest(Workspace(built))
    query = (
        "select c.run, c.step, c.tokens, v.tokens, v.loss from checkpoints c left join validation v using (run, step)"
    )
    rows = connection.execute(query).fetchall()
    same = "select count(distinct loss) from validation where step = 48 and run in ('standard.nano.d0', 'late.nano.d0')"
    assert connection.execute(same).fetchone() == (1,)
    connection.close()
    assert len(rows) == 16
    assert all(read == tokens and 3 < loss < 5 for _, _, read, tokens, loss in rows)


def test_a_measured_checkpoint_is_measured_again_without_a_second_row(tmp_path: Path) -> None:
    log = ValidationLog.open(tmp_path, "r", 0)
    for step in (0, 24, 48):
        log.append(step, step * 8, np.array([3.0 + step, 4.0 + step]))
    again = ValidationLog.open(tmp_path, "r", 24)
    assert [each["step"] for each in again.rows] == [0, 24]
    again.append(24, 192, np.array([2.0, 3.0]))
    rows = pq.read_table(tmp_path / "validation.parquet", partitioning=None).to_pylist()
    assert rows[1:] == [{"run": "r", "step": 24, "tokens": 192, "loss": 2.5, "losses": [2.0, 3.0]}]


def test_losses_that_were_written_without_those_of_sequences_go_on_and_are_read_as_unknown(built_copy: Path) -> None:
    folder = built_copy / "runs" / "standard.nano.d0" / "log"
    path = folder / "validation.parquet"
    table = pq.read_table(path, partitioning=None)
    assert all(len(losses) > 1 for losses in table.column("losses").to_pylist())
    pq.write_table(table.drop_columns(["losses"]), path)
    build_manifest(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    connection = open_manifest(Workspace(built_copy))
    query = "select count(loss), count(losses) from validation where run = 'standard.nano.d0'"
    assert connection.execute(query).fetchone() == (len(table), 0)
    connection.close()
    log = ValidationLog.open(folder, "standard.nano.d0", 24)
    log.append(48, 1, np.array([3.0]))
    assert [each["losses"] is None for each in log.rows] == [True] * (len(log.rows) - 1) + [False]


def test_speed_that_was_written_without_utilization_is_read_as_unknown(built_copy: Path) -> None:
    path = built_copy / "runs" / "standard.nano.d0" / "speed" / "speed.parquet"
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["mfu"]), path)
    build_manifest(load_suite(built_copy / "suite.toml"), Workspace(built_copy))
    connection = open_manifest(Workspace(built_copy))
    query = "select count(*), count(mfu) from speed where run = 'standard.nano.d0'"
    assert connection.execute(query).fetchone() == (96, 0)
    connection.close()


def made(config: RunConfig, step: int, rate: float | None) -> RunProgress:
    return RunProgress(run=config.run, step=step, steps=config.train.steps, loss=3.0, rate=rate, mfu=None)


def test_time_left_counts_the_steps_of_every_run_and_waits_for_chains(built: Path) -> None:
    workspace = Workspace(built)
    parent, branch = (read_config(workspace, f"{arm}.nano.d0") for arm in ("standard", "late"))
    other = replace(parent, run="other.nano.d0")
    configs = {config.run: config for config in (parent, branch, other)}
    tokens = parent.train.batch * parent.sequence_length
    rate = float(tokens)  # a step a second
    alone = {parent.run: made(parent, 6, rate), branch.run: made(branch, 48, None)}
    assert time_left(configs, alone, [parent.run]) == pytest.approx(90 + 48)
    three = alone | {other.run: made(other, 90, rate)}
    assert time_left(configs, three, [parent.run, other.run]) == pytest.approx(
        42 + 48
    )  # the chain, not (90 + 48 + 6) / 2
    branched = three | {branch.run: made(branch, 50, None)}  # it needs its parent no more
    assert time_left(configs, branched, [parent.run, other.run]) == pytest.approx(90)
    assert time_left(configs, {branch.run: made(branch, 48, None)}, [branch.run]) is None
    assert time_left(configs, {}, []) is None
    assert step_flops(parent) == tokens * parent.shape.flops_per_token(parent.sequence_length)


def test_progress_names_step_loss_speed_and_utilization_from_the_files_alone(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    config = read_config(workspace, "early.nano.d0")
    assert status_text(workspace, config).startswith("at step 96, loss 3.")
    assert "left" not in status_text(workspace, config)
    for name in ("log", "speed"):
        path = workspace.run(config.run) / name / f"{name}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()[:48]]
        for line in lines if name == "speed" else []:
            line |= {"seconds": 2.0, "mfu": 0.41}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_progress(workspace, config)
    assert (found.step, found.steps, found.rate, found.mfu) == (48, 96, 512.0, pytest.approx(0.41))
    text = f"early.nano.d0 48/96 loss {found.loss:.2f} 512 tokens/s MFU 41 %"
    assert progress_text([found], 96.0) == f"{text}, about 1 min 36 s left"
    assert progress_text([found] * 5, None) == ", ".join([text] * 3) + ", 2 more"
    assert status_text(workspace, config).endswith("512 tokens/s, MFU 41 %, about 1 min 36 s left")


def test_a_flipped_bit_in_a_log_is_seen_and_the_lines_beside_it_are_taken(tmp_path: Path) -> None:
    log = RunLog.open(tmp_path, 0)
    for step in range(300):
        log.append(row(step))
    log.save()
    path = tmp_path / "log.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert read_if_whole(path, log.schema) is None
    assert RunLog.open(tmp_path, 300).rows == [row(step) for step in range(300)]
