"""Tasks as a Slurm job array, on a cluster of one node that is started here."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from costar.core.errors import CostarError
from costar.core.machine import Slurm
from costar.corpus.executors import Backend, resumable_folder, run_tasks
from costar.corpus.marks import finished_tasks
from costar.corpus.slurm import job_name, queued

from tests.drills.conftest import wait_until
from tests.steps import runs, steps, texts

pytestmark = pytest.mark.slow
SETTINGS = Slurm(partition="main", time="10", mem_per_cpu_gb=1)
CLUSTER = Backend(slurm=SETTINGS)
CALL = (
    "import sys; from pathlib import Path; from tests.drills.test_slurm import run\n"
    "run(Path(sys.argv[1]))"
)  # fmt: skip


@pytest.fixture
def folder(cluster: Path, tmp_path: Path) -> Path:
    made = tmp_path / "a work folder"
    made.mkdir()
    return made


def run(folder: Path, backend: Backend = CLUSTER) -> None:
    run_tasks(steps(folder), tasks=4, folder=folder, name="numbers", backend=backend)


def jobs_used(folder: Path) -> set[str]:
    return {line.split()[1] for path in folder.glob("ran-*") for line in path.read_text().splitlines()}


def start_and_kill_while_task_1_waits(folder: Path) -> None:
    (folder / "mishap").write_text("wait")
    caller = subprocess.Popen([sys.executable, "-c", CALL, str(folder)])
    assert wait_until(lambda: finished_tasks(folder) == {0, 2, 3})
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()


def test_a_cluster_gives_what_local_processes_give(folder: Path, tmp_path: Path) -> None:
    remarks: list[str] = []
    run_tasks(
        steps(folder),
        tasks=4,
        folder=folder,
        name="n",
        backend=CLUSTER,
        progress=lambda _, remark: remarks.append(remark),
    )
    local = tmp_path / "local"
    local.mkdir()
    run(local, Backend(workers=2))
    assert texts(folder) == texts(local)
    assert len(texts(folder)) == 4
    assert runs(folder) == [1, 1, 1, 1]
    assert len(jobs_used(folder)) == 1
    assert "local" not in jobs_used(folder)
    assert remarks[-1] == "4 of 4 tasks"
    assert any("running" in remark or "pending" in remark for remark in remarks)


def test_few_jobs_share_many_tasks(folder: Path) -> None:
    shared = Backend(slurm=Slurm(partition="main", mem_per_cpu_gb=1, jobs=2))
    run(folder, shared)
    assert runs(folder) == [1, 1, 1, 1]
    assert len(list((folder / "log" / "slurm").glob("*.log"))) == 2


def test_an_error_of_a_task_ends_the_array_and_arrives_as_it_was_raised(folder: Path) -> None:
    (folder / "mishap").write_text("error")
    with pytest.raises(CostarError) as failure:
        run(folder)
    error = failure.value
    assert (error.place, error.found, error.exit_code) == ("letters.txt, line 3", "a hole", 2)
    assert queued(job_name(folder)) == []
    finished = finished_tasks(folder)
    (folder / "mishap").unlink()
    run(folder)
    assert finished_tasks(folder) == {0, 1, 2, 3}
    assert [runs(folder)[rank] for rank in finished] == [1] * len(finished)


def test_an_array_whose_caller_was_killed_is_found_and_not_submitted_twice(folder: Path) -> None:
    start_and_kill_while_task_1_waits(folder)
    facts = json.loads((folder / "log" / "job.json").read_text())
    (folder / "log" / "job.json").write_text(json.dumps(facts | {"id": ""}))  # as if killed before it was noted
    assert wait_until(lambda: len(queued(job_name(folder)) or []) == 1)
    second = subprocess.Popen([sys.executable, "-c", CALL, str(folder)])
    time.sleep(3)
    assert len(queued(job_name(folder)) or []) == 1
    (folder / "mishap").unlink()
    assert second.wait() == 0
    assert runs(folder) == [1, 1, 1, 1]
    assert len(jobs_used(folder)) == 1


def test_killed_at_random_moments_a_caller_runs_no_task_twice(folder: Path) -> None:
    generator = random.Random("slurm")
    for _ in range(5):
        caller = subprocess.Popen([sys.executable, "-c", CALL, str(folder)])
        time.sleep(generator.uniform(0.4, 1.6))
        os.kill(caller.pid, signal.SIGKILL)
        caller.wait()
    run(folder)
    assert runs(folder) == [1, 1, 1, 1]
    assert len(texts(folder)) == 4


def test_a_task_that_ends_without_a_word_is_named_with_its_log_and_runs_again(folder: Path) -> None:
    (folder / "mishap").write_text("kill")
    with pytest.raises(
        CostarError, match=r"1 of 4 tasks did not end, the first is task 1; .*_1.log ends: .*Killed"
    ) as failure:
        run(folder)
    assert failure.value.exit_code == 1
    (folder / "mishap").unlink()
    run(folder)
    assert runs(folder) == [1, 1, 1, 1]
    assert len(jobs_used(folder)) == 2


def test_other_inputs_end_the_array_of_the_old_ones(cluster: Path, tmp_path: Path) -> None:
    old = resumable_folder(tmp_path, "numbers", "0123456789ab")
    start_and_kill_while_task_1_waits(old)
    assert queued(job_name(old))
    fresh = resumable_folder(tmp_path, "numbers", "ba9876543210")
    assert queued(job_name(old)) == []
    assert not old.exists()
    run(fresh)
    assert runs(fresh) == [1, 1, 1, 1]


def test_an_array_is_ended_before_local_processes_take_over(folder: Path) -> None:
    start_and_kill_while_task_1_waits(folder)
    (folder / "mishap").unlink()
    run(folder, Backend(workers=2))
    assert queued(job_name(folder)) == []
    assert finished_tasks(folder) == {0, 1, 2, 3}
    assert len(texts(folder)) == 4


def test_what_sbatch_refuses_is_told_in_its_words(folder: Path) -> None:
    with pytest.raises(CostarError, match="nvalid partition") as failure:
        run(folder, Backend(slurm=Slurm(partition="nowhere")))
    assert failure.value.place == "machine.toml, [slurm]"
