"""Predicted against measured peak memory of training processes, for presets and layouts, as JSON.

    OMP_NUM_THREADS=1 python bench/needs.py [--steps 8] [--only 15m]

Every case is a fresh process that trains on random rows, saves its state once and goes on; its largest resident set
(VmHWM) is compared with `core.needs.memory_parts`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from costar.core.design import TrainDesign
from costar.core.machine import Layout
from costar.core.models import presets
from costar.core.needs import MIB, Device, memory_parts
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Case:
    """A preset with a layout; `product_bytes` is 2 for autocast to bfloat16, 4 for float32."""

    model: str
    batch: int = 8
    length: int = 256
    vocabulary: int = 1024
    micro_batch: int = 0
    optimizer: str = "adamw"
    product_bytes: int = 2
    recompute: bool = False

    @property
    def train(self) -> TrainDesign:
        return TrainDesign(
            steps=1000,
            batch=self.batch,
            optimizer=self.optimizer,
            lr=1e-3,
            lr_end=0,
            schedule="constant",
            warmup=0,
            decay=0,
            weight_decay=0.1,
            every=1000,
            also=(),
        )

    @property
    def layout(self) -> Layout:
        return Layout(micro_batch=self.micro_batch, recompute=self.recompute)


CASES = [
    Case(model="tiny"),
    Case(model="tiny", product_bytes=4),
    Case(model="tiny", batch=32),
    Case(model="tiny", batch=4, length=1024, product_bytes=4),
    Case(model="tiny", batch=32, recompute=True, product_bytes=4),
    Case(model="15m", batch=1, length=16),
    Case(model="15m"),
    Case(model="15m", product_bytes=4),
    Case(model="15m", micro_batch=2),
    Case(model="15m", optimizer="muon", product_bytes=4),
    Case(model="15m", recompute=True),
    Case(model="15m", recompute=True, product_bytes=4),
    Case(model="15m", batch=16, length=512),
    Case(model="15m", micro_batch=4, vocabulary=32_000),
    Case(model="60m", batch=4, product_bytes=4, optimizer="muon"),
    Case(model="60m", micro_batch=4),
    Case(model="60m", batch=4, recompute=True),
    Case(model="160m", batch=2, micro_batch=1),
    Case(model="160m", batch=4, optimizer="muon"),
    Case(model="160m", batch=2, recompute=True, product_bytes=4),
]


class RandomRows:
    """Stands in for an arm's overlay: rows of random ids."""

    def __init__(self, vocabulary: int, length: int):
        self.vocabulary, self.length = vocabulary, length

    def sequences(self, slots: NDArray[np.int64]) -> NDArray[np.uint16]:
        shape = (len(slots), self.length + 1)
        return np.random.default_rng(int(slots[0])).integers(0, self.vocabulary, shape, dtype=np.uint16)


def predicted(case: Case) -> dict[str, int]:
    """The parts of the formula, in bytes."""
    device = Device(kind="cpu", product_bytes=case.product_bytes)
    shape = presets()[case.model].shape(case.vocabulary)
    return memory_parts(shape, case.train, case.length, case.layout, device=device)


def measured(case: Case, steps: int) -> int:
    """The largest resident set of a fresh process that trains the case."""
    command = [sys.executable, *(["-P"] if sys.flags.safe_path else []), __file__]
    done = subprocess.run(
        [*command, "--steps", str(steps), "--one", json.dumps(asdict(case))], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def train_one(case: Case, steps: int) -> int:
    """Train here, and return this process' largest resident set."""
    import pyarrow as pa
    import torch
    from costar.core.parquet import read_table, write_table
    from costar.core.workspace import Workspace
    from costar.train.config import RunConfig
    from costar.train.probe import status_bytes
    from costar.train.saving import Saver
    from costar.train.trainer import Trainer

    torch.set_num_threads(1)
    config = RunConfig.from_json(
        {
            "run": f"bench.{case.model}.d0",
            "arm": "bench",
            "model": case.model,
            "draw": 0,
            "seed": 1,
            "shape": asdict(presets()[case.model].shape(case.vocabulary)),
            "train": asdict(case.train),
            "sequence_length": case.length,
            "eos_id": 0,
            "eos": "",
            "tokens_sha256": "",
            "tokenizer_sha256": "",
            "overlay_sha256": "",
            "checkpoints": [],
            "parent_run": None,
            "branch_step": 0,
            "spec": {},
        }
    )
    trainer = Trainer(config, cast(Any, RandomRows(case.vocabulary, case.length)), case.layout)
    trainer.engine.dtype = torch.bfloat16 if case.product_bytes == 2 else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        rows = write_table(
            Path(folder) / "rows.parquet", pa.table({"slot": list(range(4096)), "text": ["text"] * 4096})
        )
        assert read_table(rows, mend="").num_rows  # loads what reading an overlay loads
        saver = Saver(Workspace(Path(folder)), config.run, trainer.engine, kept=(), background=False)
        for number in range(steps):
            trainer.train_step()
            if number == steps // 2:
                saver.save(trainer.step, trainer.digest, config.config_sha256())
                saver.wait()
    return status_bytes("VmHWM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", default="", help="a preset")
    parser.add_argument("--one", default="", help="a case as JSON: train it in this process")
    options = parser.parse_args()
    if options.one:
        print(train_one(Case(**json.loads(options.one)), options.steps))
        return
    ratios = []
    for case in CASES:
        if options.only in ("", case.model):
            parts, peak = predicted(case), measured(case, options.steps)
            ratios.append(sum(parts.values()) / peak)
            row = asdict(case) | {"predicted_mb": sum(parts.values()) // MIB, "measured_mb": peak // MIB}
            print(json.dumps(row | {"ratio": round(ratios[-1], 3)}), flush=True)
    print(
        json.dumps(
            {"cases": len(ratios), "worst": max(abs(r - 1) for r in ratios), "median": statistics.median(ratios)}
        )
    )


if __name__ == "__main__":
    main()
