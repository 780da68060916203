"""The process that trains one run: `python -m costar.train.worker BUILD RUN [MICRO_BATCH]`."""

from __future__ import annotations

import sys
from pathlib import Path

from ..core.pool import worker_main
from ..core.workspace import Workspace


def main(arguments: list[str]) -> None:
    import torch

    from ..core.console import complain
    from .loop import train_run

    torch.set_num_threads(1)
    root, run, micro_batch = arguments
    train_run(Workspace(Path(root)), run, micro_batch=int(micro_batch), remark=complain)


if __name__ == "__main__":
    worker_main(main, sys.argv[1:])
