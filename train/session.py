"""One process' stretch of a run: steps, rows of the log, checkpoints, and what it does when it is asked to end."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.workspace import Workspace
from .log import RunLog, SpeedLog
from .saving import Saver
from .trainer import Pending, Trainer
from .validation import ValidationLog, validation_sequences
from .watch import Watch, remark_of, stopping_error

SAVE, STOP = 1, 2  # what a process asks of all at the end of a step
BEHIND = 1  # steps that a GPU is ahead of the log, so that it never waits for a value to be read back

Remark = Callable[[str], None]


class Interrupted(BaseException):
    """The process was asked to end; what it had trained is saved, and the same command goes on from there.

    No `Exception`: a compiler would take it for an error of the code that it compiles.
    """


class Session:
    """One process' stretch of a run: steps, the log, checkpoints."""

    def __init__(self, workspace: Workspace, trainer: Trainer, signals: Signals, last: int, remark: Remark):
        self.trainer, self.signals, self.last = trainer, signals, last
        self.config, self.world = trainer.config, trainer.world
        self.kept = {*self.config.kept, last}
        on_gpu = self.world.device.type == "cuda"
        self.behind = BEHIND if on_gpu else 0
        self.saver = Saver(workspace, self.config.run, trainer.engine, kept=self.kept, background=on_gpu)
        self.waiting: deque[Pending] = deque()
        self.book = _Book(workspace, trainer, remark) if self.world.is_first else None
        self.held = validation_sequences(workspace, self.config.sequence_length)

    def train(self) -> None:
        """Update until the last step, which has a checkpoint.

        Raises:
            Interrupted: a signal came; the state was saved.
        """
        try:
            self._train()
        finally:
            self.saver.join()  # a checkpoint under way is finished, whatever ends the run

    def _train(self) -> None:
        trainer = self.trainer
        if trainer.step == 0 and 0 in self.kept:
            self._save()
        gc.collect()
        gc.freeze()  # modules and weights are not looked through again
        while trainer.step < self.last:
            started = time.perf_counter()
            self.waiting.append(trainer.advance(self._wish()))
            self.signals.trained = True
            asked = 0
            for flag in self.waiting[-1].flags:
                asked |= flag
            self._settle(self.behind)
            if self.book is not None:
                self.book.speed.add(trainer.step - 1, time.perf_counter() - started)
            if trainer.step in self.kept or asked:
                self._save()
            elif self.saver.failed:
                self.saver.wait()
            if asked & STOP and trainer.step < self.last:
                self.saver.wait()
                raise Interrupted
        self.saver.wait()

    def _wish(self) -> int:
        """What this process asks of all after the next step."""
        minutes = self.trainer.layout.save_minutes
        due = self.world.is_first and minutes and time.monotonic() - self.saver.written > minutes * 60
        return (SAVE if due else 0) | (STOP if self.signals.came else 0)

    def _settle(self, behind: int) -> None:
        """Write the rows of the log of all but the newest steps."""
        while len(self.waiting) > behind:
            row = self.waiting.popleft().row(self.config)
            if self.book is not None:
                self.book.add(row)

    def _save(self) -> None:
        """Everything up to here is in the log before a checkpoint says that it was done."""
        self._settle(0)
        losses = None
        if self.held is not None and self.trainer.step in self.config.checkpoints:
            losses = self.trainer.engine.evaluate(self.held)
        if self.book is not None:
            self.book.save(self.trainer.step, losses)
        self.saver.save(self.trainer.step, self.trainer.digest, self.config.config_sha256())


class _Book:
    """What the first process of a run writes down: losses, speeds, losses on validation documents; and who watches it."""

    def __init__(self, workspace: Workspace, trainer: Trainer, remark: Remark):
        config, folder = trainer.config, workspace.run(trainer.config.run)
        device = torch.cuda.get_device_name() if trainer.world.device.type == "cuda" else "CPU"
        self.workspace, self.config, self.remark = workspace, config, remark
        self.log = RunLog.open(folder / "log", trainer.step)
        self.speed = SpeedLog.open(folder / "speed", config, trainer.step, device=device, devices=trainer.world.size)
        self.validation = ValidationLog.open(folder / "log", config.run, trainer.step)
        self.watch = Watch.after(workspace, config, self.log.rows, trainer.step)

    def add(self, row: dict[str, Any]) -> None:
        """Raises:
        CostarError: the row is no finite number, or training diverges.
        """
        verdict = self.watch.judge(row)
        if verdict is not None and verdict.stops:
            raise stopping_error(self.workspace, self.config, verdict)
        if verdict is not None:
            self.remark(remark_of(self.workspace, self.config, verdict))
        self.log.append(row)

    def save(self, step: int, losses: NDArray[np.float64] | None) -> None:
        self.log.save()
        self.speed.save()
        if losses is not None:
            self.validation.append(step, step * self.config.train.batch * self.config.sequence_length, losses)


class Signals:
    """SIGTERM and SIGUSR2 end a run after its next step, with a checkpoint; before its first step, at once: the model
    may be compiling, and nothing would be lost.
    """

    def __init__(self) -> None:
        self.came, self.trained = False, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in (signal.SIGTERM, signal.SIGUSR2)}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if not self.trained:
            raise Interrupted
