from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from costar.core.pool import Job, WorkerFailed, run_jobs


def test_a_failing_worker_ends_the_pool_with_its_message_and_exit_code() -> None:
    jobs = [
        Job(name="bad", module="costar.train.worker", arguments=("/nowhere", "a.b.d0", '{"layout": {}, "stop": null}'))
    ]
    with pytest.raises(WorkerFailed, match="no such run") as failure:
        run_jobs(lambda running: jobs.pop() if jobs else None, 2, lambda: None)
    assert failure.value.exit_code == 2


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    """An orphan that goes on writing would race with the next command."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys, time\nfrom costar.core.pool import worker_main\n"
        "def main(a):\n    print(os.getpid(), flush=True)\n    time.sleep(120)\nworker_main(main, [])\n"
    )
    parent_code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, {str(worker)!r}]); time.sleep(120)"
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        for _ in range(100):
            try:
                os.kill(child, 0)
            except ProcessLookupError:
                return
            with open(f"/proc/{child}/stat") as stat:
                if stat.read().split()[2] == "Z":
                    return
            time.sleep(0.05)
    pytest.fail("the worker outlived its parent")
