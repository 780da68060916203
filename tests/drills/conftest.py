"""A Slurm cluster of one node for the drills, started here."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import costar
import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configuration(folder: Path) -> str:
    """A cluster of this machine alone: no accounting, no control groups, four processors whatever there are."""
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    return f"""
ClusterName=drill
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def wait_until(true: Callable[[], bool], seconds: float = 180) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def node_is_idle() -> bool:
    done = subprocess.run(["sinfo", "--noheader", "--format=%T"], check=False, capture_output=True, text=True)
    return done.stdout.strip() == "idle"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """A running cluster that `sbatch` and its kin talk to while the tests run."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    programs = {name: shutil.which(name, path=path) for name in (*DAEMONS, "sbatch")}
    if missing := [name for name, found in programs.items() if found is None]:
        pytest.skip(f"no {', '.join(missing)} here: see tests/install-clients")
    with contextlib.ExitStack() as stack:
        # not below pytest's own folders: the path of a socket holds 107 characters
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "slurm.conf").write_text(configuration(folder))
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        options = ["--socket=munge.socket", "--key-file=munge.key", "--pid-file=munged.pid", "--seed-file=munge.seed"]
        munged = [option.replace("=", f"={folder}/") for option in options]
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(Path(costar.__file__).parent), os.environ.get("PYTHONPATH", "")])
        )
        arguments = {"munged": ["--foreground", "--force", *munged], "slurmctld": ["-D"], "slurmd": ["-D"]}
        for name in DAEMONS:
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            daemon = subprocess.Popen([str(programs[name]), *arguments[name]], stdout=log, stderr=log)
            stack.callback(stop, daemon)
            if name == "munged":
                wait_until((folder / "munge.socket").exists, 10)
        if not wait_until(node_is_idle, 30):
            ends = [f"{name}: {(folder / f'{name}.log').read_text(errors='replace')[-200:]}" for name in DAEMONS]
            pytest.skip(f"Slurm does not start here: {'; '.join(ends)}")
        yield folder
        subprocess.run(["scancel", "--partition=main"], check=False)
        wait_until(node_is_idle, 20)


def stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
