"""Training on one GPU: tokens/s, MFU, peak memory, the price of repeatable bits, what reading costs. JSON, below 8 minutes.

    python bench/gpu.py [--case 1b] [--smoke]

Every case trains a model of a published shape on sequences of a synthetic store, 2 % of them perturbed, through the whole
of costar's loop (order, overlay, digest, update, row of the log), in a process of its own. `--smoke` shrinks every
number so that the script itself can be tried on a CPU. Needs torch, numpy, safetensors and pyarrow only.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

LENGTH = 2048
MINUTES = 8


@dataclass(frozen=True, kw_only=True)
class Case:
    """`layers` (0: all) cuts a slice of a preset; `micro_batch` is halved until it fits."""

    preset: str
    batch: int
    micro_batch: int
    layers: int = 0
    compile: bool = True
    recompute: bool = False
    determinism: str = "data-exact"
    optimizer: str = "adamw"
    steps: int = 8


CASES = {
    "1b": Case(preset="1b", batch=32, micro_batch=16, steps=12),
    "1b repeatable": Case(preset="1b", batch=32, micro_batch=16, determinism="repeatable"),
    "8b slice": Case(preset="8b", layers=6, batch=8, micro_batch=4),
    "1b eager": Case(preset="1b", batch=32, micro_batch=16, compile=False),
    "1b recompute": Case(preset="1b", batch=32, micro_batch=16, recompute=True),
    "1b muon": Case(preset="1b", batch=32, micro_batch=16, optimizer="muon"),
}


def run_case(name: str, smoke: bool) -> dict[str, Any]:
    """Train the steps of a case and measure; the micro-batch is halved when memory does not suffice."""
    import torch

    case, length = CASES[name], LENGTH
    if smoke:
        case, length = replace(case, preset="tiny", layers=2, batch=4, micro_batch=2, steps=3), 64
    while True:
        try:
            return measure(case, length)
        except torch.OutOfMemoryError:
            if case.micro_batch == 1:
                return {"failed": "out of memory with one sequence"}
        gc.collect()
        torch.cuda.empty_cache()
        case = replace(case, micro_batch=case.micro_batch // 2)


def measure(case: Case, length: int) -> dict[str, Any]:
    import numpy as np
    import torch
    from costar.core.devices import mfu
    from costar.core.hashing import row_hashes
    from costar.core.machine import Layout
    from costar.core.models import presets
    from costar.corpus.windows import StoreWindows
    from costar.insertion.order import FeistelOrder
    from costar.insertion.overlay import Overlay
    from costar.train.checkpoint import model_state, state_sha256
    from costar.train.trainer import Trainer
    from reading import make_edits, make_store

    preset = presets()[case.preset]
    shape = replace(preset, layers=case.layers or preset.layers).shape(50_304)
    layout = Layout(
        micro_batch=case.micro_batch, compile=case.compile, recompute=case.recompute, determinism=case.determinism
    )
    with tempfile.TemporaryDirectory() as folder:
        slots = (case.steps + 2) * case.batch
        store = make_store(Path(folder), max(4_000_000, 2 * (slots + 5 * case.batch) * length))
        size = store.sequences(length)
        order = FeistelOrder(seed=1, draw=0, size=size)
        overlay = Overlay(
            StoreWindows(store, length), order, make_edits(size, 0.02, length) if length > 200 else no_edits()
        )
        started = time.perf_counter()
        trainer = Trainer(config(case, shape, length), overlay, layout)
        waiting = deque([trainer.advance()])
        first_loss = waiting.popleft().row(trainer.config)["loss"]
        first = time.perf_counter() - started
        on_gpu = trainer.world.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds, loss = [], first_loss
        for _ in range(case.steps):
            mark = time.perf_counter()
            waiting.append(trainer.advance())
            while len(waiting) > (1 if on_gpu else 0):
                loss = waiting.popleft().row(trainer.config)["loss"]
            seconds.append(time.perf_counter() - mark)
        reads = []
        for first in range(slots, slots + 5 * case.batch, case.batch):  # rows that nobody has read
            mark = time.perf_counter()
            row_hashes(overlay.sequences(np.arange(first, first + case.batch)))
            reads.append(time.perf_counter() - mark)
        reading = statistics.median(reads)
        step = statistics.median(seconds[1:])
        rate = case.batch * length / step
        name = torch.cuda.get_device_name() if on_gpu else "CPU"
        found: dict[str, Any] = {
            "parameters": shape.parameters,
            "layers": shape.layers,
            "batch": case.batch,
            "micro_batch": case.micro_batch,
            "tokens_per_second": round(rate),
            "mfu": mfu(name, 1, shape.flops_per_token(length), rate),
            "seconds_a_step": [round(each, 4) for each in seconds],
            "first_step_seconds": round(first, 1),
            "reading_and_hashing_share": round(reading / step, 5),
            "loss": [round(first_loss, 4), round(loss, 4)],
        }
        if on_gpu:
            found["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        if case.determinism == "repeatable":
            found["state"] = state_sha256(model_state(trainer.model))[:16]
        assert np.isfinite(loss)
    return found


def no_edits() -> Any:
    import numpy as np
    from costar.insertion.overlay import Edits

    empty = np.zeros(0, np.int64)
    return Edits(empty, empty, np.zeros(1, np.int64), empty.astype(np.int32))


def config(case: Case, shape: Any, length: int) -> Any:
    """A run's configuration without a suite: the numbers of the case and nothing else that matters here."""
    from costar.core.design import TrainDesign
    from costar.train.config import RunConfig

    train = TrainDesign(
        steps=case.steps + 2,
        batch=case.batch,
        optimizer=case.optimizer,
        lr=4e-4,
        lr_end=4e-5,
        schedule="cosine",
        warmup=2,
        decay=0,
        weight_decay=0.1,
        every=1000,
        also=(),
    )
    return RunConfig(
        run="standard.bench.d0",
        arm="standard",
        model="bench",
        draw=0,
        seed=1,
        shape=shape,
        train=train,
        sequence_length=length,
        eos_id=0,
        eos="",
        tokens_sha256="",
        tokenizer_sha256="",
        overlay_sha256="",
        checkpoints=(),
        branches=(),
        parent_run=None,
        branch_step=0,
        spec={},
        vocabulary=shape.vocab_size,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(options.case, options.smoke)))
        return
    import torch

    if not torch.cuda.is_available() and not options.smoke:
        sys.exit("bench/gpu.py: no GPU here; --smoke tries the script on a CPU")
    deadline = time.monotonic() + MINUTES * 60
    found: dict[str, dict[str, Any]] = {}
    for name in [*CASES, "1b repeatable again"]:
        case = name.removesuffix(" again")
        command = [sys.executable, __file__, "--case", case] + (["--smoke"] if options.smoke else [])
        left = deadline - time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=max(left, 1))
            lines = done.stdout.strip().splitlines()
            found[name] = json.loads(lines[-1]) if done.returncode == 0 else {"failed": done.stderr[-2000:]}
        except subprocess.TimeoutExpired:
            found[name] = {"failed": f"no time left of {MINUTES} minutes"}
        sys.stderr.write(f"{name}: {json.dumps(found[name])}\n")
    rates: dict[str, Any] = {name: each.get("tokens_per_second") for name, each in found.items()}
    on_gpu = torch.cuda.is_available()
    summary = {
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cost_of_repeatable": _ratio(rates["1b"], rates["1b repeatable"]),
        "repeats_bit_for_bit": "state" in found["1b repeatable"] and _same(found, "state"),
        "gain_of_compile": _ratio(rates["1b"], rates["1b eager"]),
        "cost_of_recompute": _ratio(rates["1b"], rates["1b recompute"]),
    }
    print(json.dumps(summary | {"cases": found}, indent=1))


def _same(found: dict[str, dict[str, Any]], key: str) -> bool:
    return bool(found["1b repeatable"].get(key) == found["1b repeatable again"].get(key))


def _ratio(a: float | None, b: float | None) -> float | None:
    return round(a / b, 3) if a and b else None


if __name__ == "__main__":
    main()
