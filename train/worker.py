"""The process that trains one run, or one of its processes: `python -m costar.train.worker BUILD RUN JSON`.

JSON is `{"layout": {…}, "stop": null}`: a `core.machine.Layout`, and the step after whose checkpoint it ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from ..core.machine import Layout
from ..core.pool import SAVED, worker_main
from ..core.workspace import Workspace


def main(arguments: list[str]) -> None:
    import torch

    from ..core.console import complain
    from . import loop

    torch.set_num_threads(1)
    root, run, text = arguments
    given = json.loads(text)
    layout, stop = Layout(**given["layout"]), given["stop"]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.distributed.init_process_group("gloo")
    told: list[int] = []
    for signum in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(signum, lambda number, _: told.append(number))
    step = loop.Trainer.train_step

    def stepping(trainer: loop.Trainer) -> dict[str, object]:
        if trainer.step == stop:
            sys.exit(0)
        if told:
            loop._save(
                Workspace(Path(root)), trainer, loop.RunLog.open(Path(root) / "runs" / run / "log", trainer.step)
            )
            sys.exit(SAVED)
        return step(trainer)

    loop.Trainer.train_step = stepping  # type: ignore[method-assign,assignment]
    code = 0
    if int(os.environ.get("RANK", "0")) == 0:
        try:
            loop.train_run(Workspace(Path(root)), run, micro_batch=layout.micro_batch, remark=complain)
        except SystemExit as error:
            code = int(error.code or 0)
    if torch.distributed.is_initialized():
        kept = [code]
        torch.distributed.broadcast_object_list(kept)
        code = kept[0]
    sys.exit(code)


if __name__ == "__main__":
    worker_main(main, sys.argv[1:])
