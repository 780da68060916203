"""Trained for real in several processes, killed, asked to end, or short of room: the same data and the same bits."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from costar.core.workspace import Workspace
from costar.train.checkpoint import finished_steps, read_saved

from tests.gloo import start_world

pytestmark = pytest.mark.slow
RUN = "perturbed.nano.d0"
OFTEN = {"save_minutes": 0.001}  # a checkpoint for restarts after nearly every step


def work(build: Path, processes: int = 1, *, stop: int | None = None, **layout: Any) -> list[str]:
    """Train in that many processes to the end, or to `stop`; what they said."""
    arguments = [str(build), RUN, json.dumps({"layout": layout, "stop": stop})]
    running = start_world("costar.train.worker", processes, arguments)
    told = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0] * processes, told
    return told


def afresh(build: Path) -> Workspace:
    """Nothing of the run is there but its configuration."""
    folder = Workspace(build).run(RUN)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "config.json":
            path.unlink()
    return Workspace(build)


def outcome(build: Path) -> dict[str, Any]:
    """Every checkpoint's state and digest, and the table of the log."""
    place = Workspace(build)
    steps = {step: read_saved(place.checkpoint(RUN, step)) for step in finished_steps(place, RUN)}
    return {"steps": steps, "log": (place.run(RUN) / "log" / "log.parquet").read_bytes()}


def digests(build: Path) -> list[str]:
    path = Workspace(build).run(RUN) / "log" / "log.jsonl"
    return [json.loads(line)["data_digest"] for line in path.read_text().splitlines()]


def promise(build: Path) -> str:
    return str(json.loads((Workspace(build).run(RUN) / "identity.json").read_text())["determinism"])


def test_one_two_and_four_processes_read_the_same_rows_and_keep_their_promise(built_copy: Path) -> None:
    planned = digests(built_copy)
    invariant: dict[str, Any] = {"determinism": "layout-invariant"}
    states = set()
    for processes in (1, 2, 4):
        afresh(built_copy)
        work(built_copy, processes, **invariant)
        assert digests(built_copy) == planned
        assert promise(built_copy) == "layout-invariant"
        saved = read_saved(Workspace(built_copy).checkpoint(RUN, 96))
        assert saved is not None
        states.add(saved.state_sha256)
        states.add(str(outcome(built_copy)["log"]))
    assert len(states) == 2


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_run_goes_on_in_another_number_of_processes_with_the_same_rows_and_says_so(
    built_copy: Path, sharding: str
) -> None:
    planned = digests(built_copy)
    afresh(built_copy)
    work(built_copy, 2, stop=24, sharding=sharding)
    assert promise(built_copy) == "repeatable"
    told = work(built_copy, 4, stop=48, sharding=sharding)
    assert "another" in told[0]
    assert "world_size" in told[0]
    work(built_copy, 1, sharding=sharding)
    assert digests(built_copy) == planned
    assert promise(built_copy) == "data-exact"


def test_two_sharded_processes_that_were_stopped_repeat_the_undisturbed_ones(built_copy: Path) -> None:
    afresh(built_copy)
    work(built_copy, 2, sharding="full")
    undisturbed = outcome(built_copy)
    afresh(built_copy)
    for stop in (24, 48, None):
        work(built_copy, 2, stop=stop, sharding="full")
    assert outcome(built_copy) == undisturbed
    assert promise(built_copy) == "repeatable"


def test_killed_twenty_times_at_random_moments_a_run_ends_with_the_bits_of_the_undisturbed_one(
    built_copy: Path,
) -> None:
    undisturbed = outcome(built_copy)
    afresh(built_copy)
    started = time.monotonic()
    work(built_copy, **OFTEN)
    duration = time.monotonic() - started
    assert outcome(built_copy) == undisturbed
    generator, kills, resumed = random.Random("train"), 0, 0
    afresh(built_copy)
    while kills < 20:
        arguments = [str(built_copy), RUN, json.dumps({"layout": OFTEN})]
        [process] = start_world("costar.train.worker", 1, arguments)
        time.sleep(generator.uniform(0.3, 1.0) * duration)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        resumed += bool(finished_steps(Workspace(built_copy), RUN))
        if process.returncode == 0:
            assert outcome(built_copy) == undisturbed
            afresh(built_copy)
    work(built_copy)
    assert resumed
    assert outcome(built_copy) == undisturbed


def test_asked_to_end_a_run_saves_its_state_and_goes_on_from_there_with_the_same_bits(built_copy: Path) -> None:
    undisturbed = outcome(built_copy)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        afresh(built_copy)
        for processes in (1, 2):
            running = start_world("costar.train.worker", processes, [str(built_copy), RUN])
            wait_for_steps(built_copy)
            running[-1].send_signal(number)
            told = [process.communicate(timeout=120)[1] for process in running]
            if processes == 1:
                assert running[0].returncode == 75, told
                assert "the state is saved" in told[0]
                left = finished_steps(Workspace(built_copy), RUN)
                assert left
                assert left[-1] < 96
                work(built_copy)
                assert outcome(built_copy) == undisturbed
                afresh(built_copy)
            else:
                assert [process.returncode for process in running] == [75, 75], told


def wait_for_steps(build: Path) -> None:
    """Until the log has a line."""
    path = Workspace(build).run(RUN) / "log" / "log.jsonl"
    for _ in range(2000):
        if path.is_file() and path.stat().st_size:
            return
        time.sleep(0.02)
    raise AssertionError("no step within 40 s")


def test_ended_while_it_compiles_a_run_leaves_nothing_behind_and_starts_again(built_copy: Path, tmp_path: Path) -> None:
    afresh(built_copy)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "cache")
    try:
        [process] = start_world(
            "costar.train.worker", 1, [str(built_copy), RUN, json.dumps({"layout": {"compile": True}})]
        )
        for _ in range(2000):
            if any(
                name.endswith(".py") for _, _, names in os.walk(tmp_path / "cache") for name in names
            ):  # being compiled
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 75
        assert not finished_steps(Workspace(built_copy), RUN)
        work(built_copy, compile=True)
    finally:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert digests(built_copy)
    assert finished_steps(Workspace(built_copy), RUN)[-1] == 96


@pytest.fixture
def read_only(built_copy: Path) -> Iterator[Path]:
    afresh(built_copy)
    folder = Workspace(built_copy).run(RUN)
    folder.chmod(0o500)
    yield built_copy
    folder.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_named_before_the_first_step(read_only: Path) -> None:
    [process] = start_world("costar.train.worker", 1, [str(read_only), RUN])
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "no right to write here" in told
    assert RUN in told


def command(build: Path, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "costar", "train", "./small.toml", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, cwd=build.parent.parent, stdout=pipe, stderr=pipe, text=True)


def test_the_command_asked_to_end_lets_its_run_save_and_goes_on_with_the_same_bits(built_copy: Path) -> None:
    undisturbed = outcome(built_copy)
    afresh(built_copy)
    process = command(built_copy, "--arm", "perturbed")
    wait_for_steps(built_copy)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=120)
    assert process.returncode == 1, told
    assert "the same command goes on from here" in told[1]
    left = finished_steps(Workspace(built_copy), RUN)
    assert left
    assert left[-1] < 96
    again = command(built_copy, "--arm", "perturbed")
    told = again.communicate(timeout=120)
    assert again.returncode == 0, told
    assert outcome(built_copy) == undisturbed


def test_two_commands_at_once_share_the_runs_and_one_that_has_no_more_to_do_names_the_other(built_copy: Path) -> None:
    undisturbed = outcome(built_copy)
    for run in Workspace(built_copy).runs.glob("*.d0"):
        shutil.rmtree(run)
    running = [command(built_copy), command(built_copy)]
    told = [process.communicate(timeout=300) for process in running]
    codes = [process.returncode for process in running]
    assert set(codes) <= {0, 2}, told
    assert 0 in codes
    assert all("being written by costar train" in words[1] for words, code in zip(told, codes) if code)
    assert outcome(built_copy) == undisturbed


def test_a_lost_log_stops_a_run_that_would_go_on_without_it(built_copy: Path) -> None:
    place = Workspace(built_copy)
    shutil.rmtree(place.checkpoint(RUN, 96))
    shutil.rmtree(place.run(RUN) / "hf")
    for name in ("log.jsonl", "log.parquet"):
        (place.run(RUN) / "log" / name).unlink()
    process = command(built_copy, "--arm", "perturbed")
    told = process.communicate(timeout=120)
    assert process.returncode in (1, 2), told
    assert "log.parquet" in told[1]
    assert "72 steps from 0 to 71" in told[1]
