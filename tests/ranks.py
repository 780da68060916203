"""Processes of one launch for the tests: they meet, add up their ranks, and one of them may meet with an accident."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from costar.core.errors import CostarError
from costar.core.pool import SAVED, worker_main


def main(arguments: list[str]) -> None:
    folder, accident = Path(arguments[0]), arguments[1]
    told: list[int] = []
    for signum in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(signum, lambda number, _: told.append(number))
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if rank == 1 and accident == "error":
        raise CostarError("letters.txt, line 3", found="a hole", expected="text", mend="fill it")
    if rank == 1 and accident == "bug":
        raise KeyError("colour")
    if rank == 1 and accident == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    total = torch.tensor([rank])
    dist.all_reduce(total)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    (folder / f"rank-{rank}").write_text(f"{os.getpid()} {dist.get_world_size()} {int(total)} {gpus}")
    while accident == "wait" and not told:
        time.sleep(0.02)
    dist.barrier()
    if told:
        sys.exit(SAVED)


if __name__ == "__main__":
    worker_main(main, sys.argv[1:])
