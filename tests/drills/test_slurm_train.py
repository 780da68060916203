"""A suite's runs as jobs of a real cluster of one node."""

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
from tests.drills.test_kill import start
from tests.small import costar

pytestmark = pytest.mark.slow
MACHINE = 'backend = "slurm"\n{}\n[slurm]\npartition = "main"\ntime = "30"\nmem_per_cpu_gb = 1\n'


@pytest.fixture
def untrained(cluster: Path, built_copy: Path) -> Path:
    """The built small suite without its runs and what was measured, on a machine that sends them to the cluster."""
    for name in ("runs", "eval"):
        shutil.rmtree(built_copy / name)
    (built_copy.parent.parent / "machine.toml").write_text(MACHINE.format(""))
    return built_copy


def states(build: Path) -> dict[str, str]:
    """The hash of the state in every checkpoint."""
    paths = sorted((build / "runs").glob("*/checkpoints/step-*/state.json"))
    return {str(path.relative_to(build)): json.loads(path.read_text())["state_sha256"] for path in paths}


def in_queue() -> dict[str, str]:
    """State of the jobs in the queue, by number."""
    done = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%i %T"], check=True, capture_output=True, text=True
    )
    return dict(line.split() for line in done.stdout.splitlines())


def numbers(build: Path) -> dict[str, str]:
    facts = [json.loads(path.read_text()) for path in (build / "runs").glob("*/jobs/step-*.json")]
    return {each["name"]: each["id"] for each in facts}


def hold(build: Path) -> None:
    """Make jobs wait: the node takes no more."""
    subprocess.run(["scontrol", "update", "PartitionName=main", "State=DOWN"], check=True)


def release() -> None:
    subprocess.run(["scontrol", "update", "PartitionName=main", "State=UP"], check=True)


def test_a_cluster_trains_and_measures_the_tree_to_the_same_bits(untrained: Path, built: Path) -> None:
    folder = untrained.parent.parent
    done = costar(folder, "train", "./small.toml")
    assert states(untrained) == states(built)
    assert set(numbers(untrained)) == {
        "standard.nano.d0@48",
        "standard.nano.d0@96",
        "perturbed.nano.d0@96",
        "early.nano.d0@96",
        "late.nano.d0@96",
    }
    assert numbers(untrained)["late.nano.d0@96"] in done.stdout
    late = (untrained / "runs" / "late.nano.d0" / "jobs" / "step-000096.slurm").read_text()
    assert "# It needs what standard.nano.d0@48 leaves." in late
    again = costar(folder, "train", "./small.toml")
    assert "job" not in again.stdout
    costar(folder, "eval", "./small.toml")
    scripts = {path.name for path in (untrained / "runs" / "late.nano.d0" / "jobs").glob("eval-*.slurm")}
    assert scripts == {"eval-000072.slurm", "eval-000096.slurm"}
    assert list((untrained / "eval" / "ledger").glob("run=late.nano.d0/step=96/passages.text.eos.parquet"))
    costar(folder, "verify", "./small.toml")


def test_a_command_that_was_killed_finds_its_jobs_again(untrained: Path, built: Path) -> None:
    folder = untrained.parent.parent
    hold(untrained)
    try:
        first = start(folder, "train", "./small.toml")
        assert wait_until(lambda: len(numbers(untrained)) == 5)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        before, queue = numbers(untrained), in_queue()
        assert set(before.values()) == set(queue)
        second = subprocess.Popen(first.args, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert second.stdout is not None
        assert "in the queue already" in "".join(second.stdout.readline() for _ in range(1))
        assert set(in_queue()) == set(queue)
    finally:
        release()
    assert second.wait() == 0
    assert numbers(untrained) == before
    assert states(untrained) == states(built)


def test_a_job_told_to_end_saves_goes_back_to_the_queue_and_ends_with_the_same_bits(
    untrained: Path, built: Path
) -> None:
    folder = untrained.parent.parent
    command = start(folder, "train", "./small.toml", "--arm", "perturbed")
    run = untrained / "runs" / "perturbed.nano.d0"
    assert wait_until((run / "log" / "log.jsonl").is_file)
    number = numbers(untrained)["perturbed.nano.d0@96"]
    subprocess.run(["scancel", "--signal=USR2", number], check=True)
    assert command.wait() == 0
    shown = (run / "jobs" / "step-000096.log").read_text()
    name = "runs/perturbed.nano.d0/checkpoints/step-000096/state.json"
    assert states(untrained)[name] == states(built)[name]
    extra = {path.name for path in (run / "checkpoints").iterdir()} - {"step-000024", "step-000048", "step-000072"}
    assert "asked to end; the state is saved" in shown
    assert extra == {"step-000096"}, shown  # what was saved for the restart went when the next was whole


def test_an_error_of_a_job_arrives_and_its_children_are_submitted_anew(untrained: Path, built: Path) -> None:
    folder = untrained.parent.parent
    tokenizer = untrained / "corpus" / "tokenizer.json"
    hold(untrained)
    try:
        command = subprocess.Popen(
            [sys.executable, "-m", "costar", "train", "./small.toml"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert wait_until(lambda: len(numbers(untrained)) == 5)
        kept = tokenizer.read_bytes()
        tokenizer.write_bytes(kept + b" ")
    finally:
        release()
    assert command.wait() == 2
    assert command.stderr is not None
    told = command.stderr.read()
    assert "another tokenizer than the one the corpus was built with" in told
    assert "Traceback" not in told
    assert wait_until(lambda: not in_queue())
    first = numbers(untrained)
    tokenizer.write_bytes(kept)
    costar(folder, "train", "./small.toml")
    assert states(untrained) == states(built)
    assert not set(first.values()) & set(numbers(untrained).values())


def test_a_cancelled_job_is_named_and_submitted_again(untrained: Path, built: Path) -> None:
    folder = untrained.parent.parent
    command = subprocess.Popen(
        [sys.executable, "-m", "costar", "train", "./small.toml", "--arm", "perturbed"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = untrained / "runs" / "perturbed.nano.d0"
    assert wait_until((run / "log" / "log.jsonl").is_file)
    subprocess.run(["scancel", numbers(untrained)["perturbed.nano.d0@96"]], check=True)
    assert command.wait() == 1
    assert command.stderr is not None
    told = command.stderr.read()
    assert "perturbed.nano.d0@96" in told
    assert "run the same command again" in told
    costar(folder, "train", "./small.toml", "--arm", "perturbed")
    name = "runs/perturbed.nano.d0/checkpoints/step-000096/state.json"
    assert states(untrained)[name] == states(built)[name]
