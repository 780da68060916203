"""Runs in several processes: real launches of two, over gloo."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import costar
import pytest
from costar.core.pool import ENVIRONMENT, PARENT, SAVED, Job, WorkerFailed, run_jobs


@pytest.fixture(autouse=True)
def _tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(costar.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def job(folder: Path, accident: str, name: str = "late.nano.d0") -> Job:
    return Job(
        name=name, module="costar.train.torchrun", arguments=("2", "tests.ranks", str(folder), accident), processes=2
    )


def launch(folder: Path, accident: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "costar.train.torchrun", *job(folder, accident).arguments]
    environment = os.environ | ENVIRONMENT | {PARENT: str(os.getpid())}
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)


def run(*jobs: Job, slots: int = 1, gpus: tuple[str, ...] = ()) -> None:
    waiting = list(jobs)
    run_jobs(lambda running: waiting.pop(0) if waiting else None, slots, lambda: None, gpus)


def wait_until(true: Callable[[], bool], seconds: float = 180) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def processes(folder: Path) -> list[int]:
    """The ranks' process numbers, once both have met."""
    assert wait_until(lambda: len([p for p in folder.glob("rank-*") if p.read_text()]) == 2)
    return [int((folder / f"rank-{rank}").read_text().split()[0]) for rank in (0, 1)]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_two_runs_of_two_processes_go_side_by_side_each_on_gpus_of_its_own(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    run(*(job(folder, "none", name=folder.name) for folder in folders), slots=2, gpus=("4", "5", "6", "7"))
    seen = []
    for folder in folders:
        found = [(folder / f"rank-{rank}").read_text().split()[1:] for rank in (0, 1)]
        assert found[0] == found[1]
        assert found[0][:2] == ["2", "1"]
        seen.append(found[0][2])
    assert seen == ["4,5", "6,7"]


def test_an_error_of_one_process_is_the_runs_own_message_and_exit_code(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed) as failure:
        run(job(tmp_path, "error"))
    assert failure.value.exit_code == 2
    expected = "late.nano.d0\nletters.txt, line 3\n  found     a hole\n  expected  text\n  mend      fill it"
    assert failure.value.text == expected


@pytest.mark.slow
def test_a_bug_in_one_process_is_told_once_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed) as failure:
        run(job(tmp_path, "bug"))
    assert failure.value.exit_code == 1
    assert failure.value.text.endswith("KeyError: 'colour'")
    assert failure.value.text.count("Traceback") == 1


def test_a_killed_process_ends_its_run_with_one_message(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed) as failure:
        run(job(tmp_path, "kill"))
    assert failure.value.exit_code == 1
    assert "process 2 of 2\n  found     ended by signal 9" in failure.value.text
    assert "run the same command again" in failure.value.text
    assert "Traceback" not in failure.value.text


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_to_save_reaches_the_processes_and_their_exit_code_comes_back(
    tmp_path: Path, signum: signal.Signals
) -> None:
    with launch(tmp_path, "wait") as launcher:
        pids = processes(tmp_path)
        launcher.send_signal(signum)
        assert launcher.wait(180) == SAVED
    assert not any(map(lives, pids))


@pytest.mark.slow
def test_launchers_of_two_nodes_meet_at_the_first_and_keep_what_their_processes_say(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--nodes", "2", "--endpoint", f"localhost:{port}", "--id", "42", "--logs", str(tmp_path / "said")]
    command = [sys.executable, "-m", "costar.train.torchrun", *options, "1", "tests.ranks", str(tmp_path), "none"]
    environment = os.environ | ENVIRONMENT | {PARENT: str(os.getpid())}
    launchers = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [launcher.wait(120) for launcher in launchers] == [0, 0]
    assert [(tmp_path / f"rank-{rank}").read_text().split()[1:3] for rank in (0, 1)] == [["2", "1"]] * 2
    assert len(list((tmp_path / "said").rglob("stderr.log"))) == 2


def test_processes_end_with_their_launcher(tmp_path: Path) -> None:
    with launch(tmp_path, "wait") as launcher:
        pids = processes(tmp_path)
        launcher.kill()
        launcher.wait()
        assert wait_until(lambda: not any(map(lives, pids)), 10)
