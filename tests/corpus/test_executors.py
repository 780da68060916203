from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import costar
import pytest
from costar.core.errors import CostarError
from costar.core.machine import Machine, Slurm
from costar.core.workspace import work_folder
from costar.corpus.executors import Backend, backend_of, resumable_folder, run_tasks
from costar.corpus.marks import finished_tasks
from costar.corpus.slurm import SlurmTasks, job_name

from tests.steps import runs, steps, texts

ROOT = Path(costar.__file__).resolve().parent
TWO = Backend(workers=2)
CALL = (
    "import sys; from pathlib import Path; from tests.steps import steps\n"
    "from costar.corpus.executors import Backend, run_tasks\n"
    "folder = Path(sys.argv[1])\n"
    "run_tasks(steps(folder), tasks=4, folder=folder, name='numbers', backend=Backend(workers=2))"
)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker processes find the steps of the tests wherever pytest was started."""
    given = os.environ.get("PYTHONPATH")  # an empty entry would be the working directory
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), given] if given else [str(ROOT)]))


def run(folder: Path, *, workers: int = 2, tasks: int = 4, at: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    run_tasks(steps(folder, at), tasks=tasks, folder=folder, name="numbers", backend=Backend(workers=workers))


def wait_until(true: object) -> None:
    assert callable(true)
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_result_does_not_depend_on_the_workers_and_each_has_one_thread(tmp_path: Path) -> None:
    for workers in (1, 2, 9):
        run(tmp_path / str(workers), workers=workers)
    assert texts(tmp_path / "1") == texts(tmp_path / "2") == texts(tmp_path / "9")
    assert "\n".join(texts(tmp_path / "1").values()).count("the number") == 20
    lines = [path.read_text() for path in (tmp_path / "1").glob("ran-*")]
    assert len(lines) == 4
    assert all("threads=1" in line for line in lines)


def test_progress_reaches_the_whole_and_only_grows(tmp_path: Path) -> None:
    shares: list[float] = []
    run_tasks(
        steps(tmp_path), tasks=4, folder=tmp_path, name="n", backend=TWO, progress=lambda share, _: shares.append(share)
    )
    assert shares[-1] == 1
    assert shares == sorted(shares)


def test_an_error_of_a_task_arrives_as_it_was_raised_and_finished_tasks_do_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "mishap").write_text("error")
    with pytest.raises(CostarError) as failure:
        run(tmp_path, workers=1, at=2)
    error = failure.value
    assert (error.place, error.found, error.expected, error.mend) == (
        "letters.txt, line 3",
        "a hole",
        "text",
        "fill it",
    )
    assert error.exit_code == 2
    assert finished_tasks(tmp_path) == {0, 1}
    (tmp_path / "mishap").unlink()
    run(tmp_path, at=2)
    assert runs(tmp_path) == [1, 1, 1, 1]
    run(tmp_path / "whole")
    assert texts(tmp_path) == texts(tmp_path / "whole")


def test_a_fault_of_the_code_is_named_with_the_log_that_has_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "mishap").write_text("bug")
    with pytest.raises(CostarError, match="KeyError: 'colour'") as failure:
        run(tmp_path)
    assert failure.value.exit_code == 1
    log = tmp_path / "log" / "logs" / "task_00001.log"
    assert str(log) in failure.value.mend
    assert "Traceback" in log.read_text()


def test_a_killed_worker_is_an_error_that_says_how_to_go_on_and_the_next_call_does(tmp_path: Path) -> None:
    (tmp_path / "mishap").write_text("kill")
    with pytest.raises(CostarError, match="ended by signal 9") as failure:
        run(tmp_path, workers=1, at=3)
    assert failure.value.exit_code == 1
    assert "3 of 4 finished tasks" in failure.value.mend
    (tmp_path / "mishap").unlink()
    run(tmp_path, at=3)
    assert runs(tmp_path) == [1, 1, 1, 1]


def test_a_killed_call_takes_its_workers_along_and_the_next_goes_on_from_its_finished_tasks(tmp_path: Path) -> None:
    (tmp_path / "mishap").write_text("wait")
    caller = subprocess.Popen([sys.executable, "-c", CALL, str(tmp_path)])
    wait_until(lambda: finished_tasks(tmp_path) == {0, 2, 3})
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    workers = {int(line.split()[0]) for path in tmp_path.glob("ran-*") for line in path.read_text().splitlines()}
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers))
    (tmp_path / "mishap").unlink()
    assert finished_tasks(tmp_path) == {0, 2, 3}
    run(tmp_path)
    assert runs(tmp_path) == [1, 1, 1, 1]


def test_a_users_own_module_in_the_working_directory_does_not_reach_the_workers(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('the user\\'s own file was imported')")
    command = [sys.executable, "-P", "-c", CALL, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(texts(tmp_path)) == 4


def test_a_step_that_ends_its_process_does_not_pass_for_a_finished_task(tmp_path: Path) -> None:
    (tmp_path / "mishap").write_text("exit")
    with pytest.raises(CostarError, match="numbers, task 1"):
        run(tmp_path)


def test_a_worker_that_cannot_load_the_steps_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.steps.Lines.__module__", "nowhere_at_all")
    monkeypatch.setitem(sys.modules, "nowhere_at_all", sys.modules["tests.steps"])
    with pytest.raises(CostarError, match="No module named 'nowhere_at_all'") as failure:
        run(tmp_path)
    assert failure.value.exit_code == 1


def test_a_mark_without_the_output_of_its_task_is_not_believed(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "out-2").unlink()
    arguments = {"tasks": 4, "folder": tmp_path, "name": "numbers", "backend": TWO}
    run_tasks(steps(tmp_path), **arguments, output=lambda rank: tmp_path / f"out-{rank}")
    assert runs(tmp_path) == [1, 1, 2, 1]


def test_marks_of_another_number_of_tasks_say_nothing(tmp_path: Path) -> None:
    run(tmp_path, tasks=2)
    run(tmp_path, tasks=4)
    assert runs(tmp_path) == [2, 2, 1, 1]
    run(tmp_path / "whole", tasks=4)
    assert texts(tmp_path) == texts(tmp_path / "whole")


def test_a_step_goes_on_in_its_folder_and_other_inputs_get_a_fresh_one(tmp_path: Path) -> None:
    first = resumable_folder(tmp_path, "documents", "0123456789abcdef")
    other_step = resumable_folder(tmp_path, "documents-more", "0123456789abcdef")
    (first / "out-0").write_text("done")
    with work_folder(tmp_path):
        assert resumable_folder(tmp_path, "documents", "0123456789abcdef") == first
    assert (first / "out-0").is_file()
    second = resumable_folder(tmp_path, "documents", "fedcba9876543210")
    assert not list(second.iterdir())
    assert not first.exists()
    assert other_step.is_dir()


def test_slurm_without_its_commands_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CostarError, match="no sbatch, squeue, scancel, scontrol on the PATH"):
        backend_of(Machine(backend="slurm", slurm=Slurm(partition="main")))
    assert backend_of(Machine(workers=3)) == Backend(workers=3)


def test_a_job_script_names_what_was_asked_and_shares_tasks_out(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    settings = Slurm(partition="long", time="2-0", account="lab", mem_per_cpu_gb=3, at_once=5, jobs=8)
    executor = SlurmTasks([], settings, 30, 30, folder, job_name(folder))
    script = executor.script(30).splitlines()
    asked = {"partition=long", "time=2-0", "account=lab", "mem-per-cpu=3G", "cpus-per-task=1", "array=0-7%5"}
    assert {f"#SBATCH --{line}" for line in asked} <= set(script)
    assert executor.tasks_per_job == 4
    assert "export OMP_NUM_THREADS=1" in script
    assert script[-1].startswith(f"{sys.executable} ")
    assert script[-1].endswith("-m costar.corpus.worker '" + str(folder / "log" / "executor.pik") + "'")
