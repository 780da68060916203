"""A process that trains one run: `python -m costar.train.worker BUILD RUN [JSON]`, alone or under torchrun.

The JSON says how the run is laid out: {"layout": {"micro_batch": 4, …}, "stop": 1000}. A process that is asked to end
(SIGTERM, SIGUSR2) saves its state and exits with 75, which means: start it again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..core.machine import Layout
from ..core.pool import SAVED, worker_main
from ..core.workspace import Workspace


def main(arguments: list[str]) -> None:
    import torch

    from ..core.console import complain
    from .identity import pick_device
    from .loop import train_run
    from .session import Interrupted
    from .world import join_world, leave_world

    torch.set_num_threads(1)
    root, run, *rest = arguments
    options = json.loads(rest[0]) if rest else {}
    world = join_world(pick_device())
    try:
        layout = Layout(**options.get("layout", {}))
        train_run(Workspace(Path(root)), run, layout=layout, world=world, stop=options.get("stop"), remark=complain)
    except Interrupted:
        complain(f"{run}: asked to end; the state is saved")
        sys.exit(SAVED)
    finally:
        leave_world()


if __name__ == "__main__":
    worker_main(main, sys.argv[1:])
