"""Divergence stops a run and says where; normal training, noise, spikes that recover and restarts never do."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from costar.core.errors import CostarError
from costar.core.workspace import Workspace
from costar.train.config import begun_runs, read_config, write_config
from costar.train.log import read_log_rows
from costar.train.loop import train_run
from costar.train.watch import WINDOW, Verdict, Watch, remark_of, stopping_error

VOCABULARY = 1024


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def rows(losses: Iterable[float]) -> Iterator[dict[str, Any]]:
    return ({"step": step, "loss": loss, "grad_norm": 1.0} for step, loss in enumerate(losses))


def verdicts(losses: Iterable[float], vocabulary: int = VOCABULARY) -> list[Verdict]:
    watch = Watch(vocabulary)
    found = [watch.judge(row) for row in rows(losses)]
    return [each for each in found if each is not None]


def curve(steps: int, noise: float, seed: int, learned: float = 3.5, slow: float = 40.0) -> list[float]:
    """A loss that comes down from ln V by `learned` nats, with normal noise at each step."""
    draw = random.Random(seed)
    top = math.log(VOCABULARY)
    return [top - learned * (1 - (1 + step / slow) ** -0.6) + draw.gauss(0, noise) for step in range(steps)]


@pytest.mark.parametrize("noise", [0.003, 0.05, 0.15, 0.4, 0.8])
@pytest.mark.parametrize("learned", [0.0, 0.3, 3.5])
def test_noise_of_any_batch_size_never_stops_a_run(noise: float, learned: float) -> None:
    for seed in range(3):
        assert not any(each.stops for each in verdicts(curve(3000, noise, seed, learned)))


@pytest.mark.parametrize("noise", [0.003, 0.05, 0.15])
def test_normal_training_passes_without_a_word(noise: float) -> None:
    assert verdicts(curve(3000, noise, seed=1)) == []


def test_every_run_of_a_built_suite_passes_without_a_word(built: Path) -> None:
    workspace = Workspace(built)
    for run, config in begun_runs(workspace).items():
        watch = Watch(config.shape.vocab_size)
        logged = read_log_rows(workspace, run)
        assert len(logged) == config.train.steps - config.branch_step
        assert [watch.judge(row) for row in logged] == [None] * len(logged), run


@pytest.mark.parametrize("height", [1.0, 5.0, 1e6])
@pytest.mark.parametrize("wide", [1, 8])
def test_a_spike_that_recovers_is_remarked_once_with_its_step(height: float, wide: int) -> None:
    losses = curve(600, 0.1, seed=2)
    losses[300 : 300 + wide] = [loss + height for loss in losses[300 : 300 + wide]]
    (remark,) = verdicts(losses)
    assert (remark.began, remark.step, remark.stops) == (300, 300, False)


def test_a_rise_that_lasts_is_remarked_and_does_not_stop() -> None:
    """The end of a phase: text that was known by heart gives way to new text."""
    losses = curve(600, 0.1, seed=3)
    found = verdicts([*losses, *(loss + 0.9 for loss in losses[400:])])
    assert not any(each.stops for each in found)
    assert found[-1].began in range(600, 605)


@pytest.mark.parametrize("noise", [0.01, 0.15, 0.4])
@pytest.mark.parametrize("level", [5.9, math.log(VOCABULARY), 30.0])
def test_a_loss_that_stays_up_stops_within_a_window(noise: float, level: float) -> None:
    draw = random.Random(4)
    lost = [level + draw.gauss(0, noise) for _ in range(100)]
    (*_, last) = verdicts([*curve(600, noise, seed=4), *lost])
    stop = next(each for each in verdicts([*curve(600, noise, seed=4), *lost]) if each.stops)
    assert last.stops
    assert stop.step <= 600 + WINDOW
    assert 600 <= stop.began <= 605


def test_a_slow_climb_stops_where_two_fifths_are_lost() -> None:
    climb = [3.6 + step / 100 for step in range(400)]
    stop = next(each for each in verdicts([*curve(600, 0.1, seed=5), *climb]) if each.stops)
    assert 4.5 < 3.6 + (stop.step - 600) / 100 < 5.5


def test_a_run_that_breaks_before_its_first_window_stops_with_it() -> None:
    stop = next(each for each in verdicts([6.9, *[20.0] * 60]) if each.stops)
    assert (stop.began, stop.step) == (1, WINDOW - 1)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (3.0, math.inf), (3.0, math.nan)])
def test_what_is_not_finite_stops_at_once(loss: float, norm: float) -> None:
    stop = Watch(VOCABULARY).judge({"step": 7, "loss": loss, "grad_norm": norm})
    assert stop is not None
    assert stop.stops
    assert (stop.began, stop.step) == (7, 7)


def test_a_watch_that_reads_the_log_again_decides_as_one_that_never_stopped() -> None:
    losses = curve(500, 0.1, seed=6)
    losses[450] += 4
    losses += [6.5] * 40
    whole, cut = Watch(VOCABULARY), Watch(VOCABULARY)
    expected = [whole.judge(row) for row in rows(losses)]
    for row in list(rows(losses))[:480]:
        cut.judge(row)
    assert [cut.judge(row) for row in list(rows(losses))[480:]] == expected[480:]
    assert any(each and each.stops for each in expected)


def hot(workspace: Workspace, run: str, parent: str | None, lr: float) -> None:
    """Plan `run` as `perturbed` with another rate, from the start or from step 48 of it."""
    config = read_config(workspace, "perturbed.nano.d0")
    train = replace(config.train, lr=lr)
    place = {"parent_run": parent, "branch_step": 48 if parent else 0}
    write_config(workspace, replace(config, run=run, train=train, checkpoints=(24, 60, 96), **place))


def test_too_high_a_rate_stops_a_run_and_names_slots_records_and_checkpoint(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    hot(workspace, "perturbed.hot.d0", None, 1.0)
    with pytest.raises(CostarError) as caught:
        train_run(workspace, "perturbed.hot.d0")
    assert caught.value.place == "run perturbed.hot.d0, steps 1 to 31"
    assert "on slots 8 to 255, which hold " in caught.value.found
    assert " more" in caught.value.found
    assert "from initialization" in caught.value.mend
    assert "remove the later checkpoints" in caught.value.mend  # the one of step 24


def test_a_branch_is_watched_with_what_its_parent_learned(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    hot(workspace, "perturbed.hot.d0", "perturbed.nano.d0", 1.0)
    found = []
    for _ in range(2):  # the second process goes on from the checkpoint at step 60, and decides the same
        with pytest.raises(CostarError) as caught:
            train_run(workspace, "perturbed.hot.d0")
        found.append(str(caught.value))
    assert found[0] == found[1]
    assert "at step 48" in found[0]
    assert "checkpoint of perturbed.nano.d0" in found[0]


def test_messages_name_up_to_five_records_that_were_inserted_in_the_slots(built: Path) -> None:
    workspace = Workspace(built)
    config = read_config(workspace, "early.nano.d0")

    path = str(workspace.exposures("early", 0) / "exposures.parquet")
    query = "select step, record_id from read_parquet(?, hive_partitioning = false) order by slot"
    inserted = duckdb.execute(query, [path]).fetchall()
    step = inserted[0][0]
    there = list(dict.fromkeys(record for at, record in inserted if at == step))
    text = remark_of(workspace, config, Verdict(step, step, "a spike", stops=False))
    assert text.startswith(f"early.nano.d0, step {step}: a spike, on slots {8 * step} to {8 * step + 7}, which hold ")
    assert all(record in text for record in there[:5])
    assert "hold no record" in remark_of(workspace, config, Verdict(95, 95, "a spike", stops=False))
    error = stopping_error(workspace, config, Verdict(50, 80, "a loss", stops=True))
    assert "the checkpoint of early.nano.d0 at step 48" in error.mend
