"""The state of one run while it trains: engine, step, and the digest of the rows read; one update after another.

What step t reads, the learning rate and the initialization are functions of (suite, draw, arm, t). Nothing random is
carried, so a run that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import EMPTY_DIGEST, row_hashes, step_digest
from ..core.machine import Layout
from ..core.schedule import lr_at
from ..insertion.overlay import Overlay
from .checkpoint import load_checkpoint, read_saved
from .config import RunConfig
from .engine import Engine, Update
from .identity import numeric_identity, pick_device, pin
from .imports import StartWeights
from .init import fill, init_weights
from .model import Llama
from .optim import Optimizers
from .world import World

HASH_BYTES = 16

Rows = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A step that was handed to the device: its row of the log, as soon as the values are read back.

    `flags` are those that the processes raised during the step, in the order of the ranks.
    """

    step: int
    lr: float
    digest: bytes
    update: Update
    flags: tuple[int, ...]

    def row(self, config: RunConfig) -> dict[str, Any]:
        """Waits for the device."""
        return {
            "run": config.run,
            "step": self.step,
            "tokens": (self.step + 1) * config.train.batch * config.sequence_length,
            "loss": self.update.loss.item(),
            "lr": self.lr,
            "grad_norm": self.update.norm.item(),
            "data_digest": self.digest.hex(),
        }


class Trainer:
    """The state of one run in one process: engine, step, and the rolling digest of the rows that all processes read."""

    def __init__(self, config: RunConfig, overlay: Overlay, layout: Layout | None = None, world: World | None = None):
        self.config, self.overlay = config, overlay
        self.layout = layout or Layout()
        self.world = world or World(device=pick_device())
        pin(self.layout, self.world.device)
        self.engine = Engine(config.shape, config.train, self.layout, self.world)
        init_weights(self.model, config.seed, config.draw)
        self.start_sha256 = ""
        self.step = 0
        self.digest = EMPTY_DIGEST
        # Reading costs a hundredth of a step on a CPU, but a GPU would wait for it.
        self._reader = ThreadPoolExecutor(1) if self.world.device.type == "cuda" else None
        self._ahead: tuple[int, Future[Rows]] | None = None

    @property
    def model(self) -> Llama:
        return self.engine.model

    @property
    def optimizers(self) -> Optimizers:
        return self.engine.optimizers

    def identity(self) -> dict[str, Any]:
        engine, size = self.engine, self.world.size
        facts = {
            "micro_batch": engine.micro_batch,
            "compile": engine.compiled,
            "recompute": self.layout.recompute,
            "sharding": engine.sharding,
            "optimizer": "fused AdamW, Muon of costar",
        }
        facts |= {} if engine.invariant else {"world_size": size, "processes_a_node": self.world.node}
        return numeric_identity(self.world.device, engine.dtype, facts)

    def begin_with(self, weights: StartWeights) -> None:
        """Take first weights from elsewhere in place of random ones."""
        fill(dict(self.model.named_parameters()), weights.rows)
        self.start_sha256 = weights.sha256() if self.world.is_first else ""

    def load(self, folder: Path) -> None:
        """Continue from a finished checkpoint, whose bytes were checked."""
        saved = read_saved(folder)
        assert saved is not None, folder
        load_checkpoint(folder, self.model, self.optimizers)
        self.step, self.digest = saved.step, bytes.fromhex(saved.data_digest)

    def rows(self, step: int) -> Rows:
        """The ids [n, L+1] that this process reads at a step."""
        batch = self.config.train.batch
        first, last = self.world.rows(batch)
        return self.overlay.sequences(np.arange(step * batch + first, step * batch + max(last, first)))

    def _next_rows(self) -> Rows:
        if self._reader is None:
            return self.rows(self.step)
        ahead = self._ahead
        rows = ahead[1].result() if ahead is not None and ahead[0] == self.step else self.rows(self.step)
        if self.step + 1 < self.config.train.steps:
            self._ahead = (self.step + 1, self._reader.submit(self.rows, self.step + 1))
        return rows

    def advance(self, flag: int = 0) -> Pending:
        """Hand one update to the device. `flag` (below 256) is told to all processes with the hashes of their rows."""
        rows = self._next_rows()
        lr = lr_at(self.config.train, self.step)
        update = self.engine.update(rows, lr)
        hashes, flags = self._exchanged(row_hashes(rows), flag)
        self.digest = step_digest(self.digest, hashes)
        self.step += 1
        return Pending(step=self.step - 1, lr=lr, digest=self.digest, update=update, flags=flags)

    def _exchanged(self, hashes: list[bytes], flag: int) -> tuple[list[bytes], tuple[int, ...]]:
        """The hashes of all rows of the batch in row order, and every process' flag."""
        longest = 1 + HASH_BYTES * -(-self.config.train.batch // self.world.size)
        parts = self.world.gather_bytes(bytes([flag]) + b"".join(hashes), longest)
        joined = b"".join(part[1:] for part in parts)
        rows = [joined[i : i + HASH_BYTES] for i in range(0, len(joined), HASH_BYTES)]
        return rows, tuple(part[0] for part in parts)

    def train_step(self) -> dict[str, Any]:
        """One update; the row of the log."""
        return self.advance().row(self.config)
