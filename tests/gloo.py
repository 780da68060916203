"""Real processes of one world for the tests, without a launcher."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def start_world(
    module: str, processes: int, arguments: Sequence[str], *, nodes: int = 1
) -> list[subprocess.Popen[str]]:
    """The processes of `module`, told of each other as torchrun would; a world of one is told nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(processes):
        world = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": processes // nodes}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = os.environ | {key: str(value) for key, value in (world | place).items()}
        command = [sys.executable, "-m", module, *arguments]
        running.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    return running


def in_world(module: str, processes: int, arguments: Sequence[str], *, nodes: int = 1) -> list[Any]:
    """What the processes of `module` print as their last lines, in JSON, in the order of the ranks."""
    running = start_world(module, processes, arguments, nodes=nodes)
    told = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * processes, told
    return [json.loads(out.splitlines()[-1]) for out, _ in told]
