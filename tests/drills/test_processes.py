"""Runs in two processes each, as a user starts them: what is killed goes on, and every refusal is one message."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drills.conftest import wait_until
from tests.small import costar

pytestmark = pytest.mark.slow
TRAIN = ("train", "./small.toml", "--arm", "perturbed")
RUN = "perturbed.nano.d0"


@pytest.fixture
def untrained(built_copy: Path) -> Path:
    """The built small suite without its runs, where each run takes two processes."""
    shutil.rmtree(built_copy / "runs")
    (built_copy.parent.parent / "machine.toml").write_text("devices = 2\n")
    return built_copy


def begin(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "costar", *TRAIN]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def workers(build: Path, module: str) -> list[int]:
    """The processes of a module of costar that work on a build."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "-m" in words and words[words.index("-m") + 1] == module and str(build) in words:
            found.append(int(path.parent.name))
    return sorted(found)


def log_has_rows(build: Path) -> bool:
    path = build / "runs" / RUN / "log" / "log.jsonl"
    return path.is_file() and path.stat().st_size > 0


def state(build: Path) -> str:
    path = build / "runs" / RUN / "checkpoints" / "step-000096" / "state.json"
    return str(json.loads(path.read_text())["state_sha256"])


def test_killed_in_one_process_or_in_the_launcher_a_run_goes_on_to_the_same_bits(untrained: Path) -> None:
    folder = untrained.parent.parent
    costar(folder, *TRAIN)
    expected = state(untrained)
    shutil.rmtree(untrained / "runs")
    for module, victim, told in (
        ("costar.train.worker", -1, "ended by signal 9"),
        ("costar.train.worker", 0, "ended by signal 9"),
        ("costar.train.torchrun", 0, "ended by signal 9"),
    ):
        command = begin(folder)
        assert wait_until(lambda: log_has_rows(untrained))
        processes = workers(untrained, "costar.train.worker") + workers(untrained, "costar.train.torchrun")
        assert len(processes) == 3
        os.kill(workers(untrained, module)[victim], signal.SIGKILL)
        assert command.wait() == 1
        assert command.stderr is not None
        words = command.stderr.read()
        assert told in words
        assert "run the same command again" in words
        assert "Traceback" not in words
        assert wait_until(lambda: not workers(untrained, "costar.train.worker"), 15)
        (untrained / "runs" / RUN / "log" / "log.jsonl").unlink()
    costar(folder, *TRAIN)
    assert state(untrained) == expected


def test_a_run_that_another_process_trains_is_refused_by_name(untrained: Path) -> None:
    folder = untrained.parent.parent
    first = begin(folder)
    assert wait_until(lambda: log_has_rows(untrained))
    for pid in workers(untrained, "costar.train.worker"):
        os.kill(pid, signal.SIGSTOP)
    done = costar(folder, *TRAIN, check=False)
    for pid in workers(untrained, "costar.train.worker"):
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 2
    assert f"being written by costar train {RUN}" in done.stderr
    assert done.stderr.count("\n  mend ") == 1
    assert first.wait() == 0


def test_a_folder_that_cannot_be_written_is_named_in_one_message(untrained: Path) -> None:
    """Root may write everywhere, so a file stands where the folder of the checkpoints would be."""
    folder = untrained.parent.parent
    run = untrained / "runs" / RUN
    run.mkdir(parents=True)
    if os.geteuid() == 0:
        (run / "checkpoints").write_text("")
    else:
        run.chmod(0o500)
    done = costar(folder, *TRAIN, check=False)
    run.chmod(0o700)
    assert done.returncode == 1
    assert f"runs/{RUN}" in done.stderr
    assert done.stderr.count("\n  mend ") == 1
    assert "Traceback" not in done.stderr
