"""The process that measures checkpoints: `python -m costar.eval.worker BUILD RUN:STEP …`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..core.pool import worker_main
from ..core.suite import load_suite
from ..core.workspace import Workspace


def main(arguments: list[str]) -> None:
    import torch

    from ..train.config import read_config
    from ..train.memory import keep_freed_memory
    from .score import Measurer

    os.nice(19)  # where cores are short, training goes first
    torch.set_num_threads(1)
    keep_freed_memory()
    root, *targets = arguments
    workspace = Workspace(Path(root))
    measurer = Measurer(load_suite(workspace.root / "suite.toml"), workspace)
    for target in targets:
        run, step = target.rsplit(":", 1)
        measurer.measure(read_config(workspace, run), int(step))


if __name__ == "__main__":
    worker_main(main, sys.argv[1:])
