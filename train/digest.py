"""Recording what any training loop feeds its model, in one process or in several, as a file of rolling digests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import CostarError
from ..core.hashing import EMPTY_DIGEST, row_hashes, step_digest
from ..core.workspace import write_text
from .digest_file import HASH_BYTES, StepDigest, read_digests, step_line

Ids = Tensor | NDArray[np.integer[Any]]


class DigestRecorder:
    """Writes the digests of the rows that a training loop feeds to its model.

        recorder = DigestRecorder("digests.jsonl", arm="late", batch=8)
        for ids in loader:            # [n, L+1]
            recorder.update(ids)      # every `batch` rows are a step

    Rows are hashed on the CPU, so `update` waits for ids that lie on an accelerator. With `torch.distributed`
    initialised before, every process calls `update` equally often with the rows that it feeds itself; they exchange 16
    bytes a row and the process of rank 0 writes. The rows of one call count in the order of the ranks: that is how
    accelerate deals a sequential loader out, whole batches round robin. `batch` counts the rows of all processes.
    Processes that share their rows (tensor or sequence parallel) are not told apart: a shared row would count twice.
    """

    def __init__(self, path: str | Path, *, arm: str, draw: int = 0, batch: int, start: int = 0):
        """`start` is the step that comes next: what the file holds from there on is cut off, what is before stays.

        Raises:
            CostarError: the file belongs to other data, is malformed, or lacks steps before `start`.
        """
        assert batch > 0, batch
        assert start >= 0, start
        self.path = Path(path)
        self.step = start
        self._facts: dict[str, Any] = {"arm": arm, "draw": draw, "batch": batch}
        self._length: int | None = None
        self._pending: list[bytes] = []
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._digest = EMPTY_DIGEST
        self._writes = not several or dist.get_rank() == 0
        if self._writes:
            self._reopen(start)
        self._group = dist.new_group(backend="gloo") if several else None  # hashes lie on the CPU, whatever trains

    def __enter__(self) -> DigestRecorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def update(self, ids: Ids, labels: Ids | None = None) -> None:
        """Record rows: ids [n, L+1], or inputs [n, L] with the labels [n, L] that each position is to predict.

        Every `batch` rows close a step, so micro-batches may be of any size.

        Raises:
            CostarError: no rows of ids, rows of another length than before, or labels that do not continue their inputs.
        """
        self.add(ids, labels)
        batch = self._facts["batch"]
        while len(self._pending) >= batch:
            self._write(self._pending[:batch])
            self._pending = self._pending[batch:]

    def add(self, ids: Ids, labels: Ids | None = None) -> None:
        """Record rows as `update` does, of a step that `end_step` will close."""
        rows = joined_rows(ids, labels)
        length = rows.shape[1] - 1
        if self._length is not None and self._length != length:
            raise CostarError(
                f"{self.path}, step {self.step}",
                found=f"rows of {length + 1} ids",
                expected=f"{self._length + 1}, as in the steps before",
                mend="give every row whole: L + 1 ids, unpadded",
            )
        self._length = length
        self._pending += _exchanged(b"".join(row_hashes(rows)), self._group)

    def end_step(self) -> None:
        """Close the step with the rows added since the last, however many.

        Raises:
            CostarError: there are none.
        """
        if not self._pending:
            raise CostarError(
                f"{self.path}, step {self.step}",
                found="an update of the model without a row",
                expected=f"{self._facts['batch']} rows",
                mend="record the rows before the step ends",
            )
        self._write(self._pending)
        self._pending = []

    def close(self) -> None:
        """Say when rows are left over that fill no step.

        Raises:
            CostarError: the rows since the last finished step are fewer than a batch.
        """
        if self._pending:
            raise CostarError(
                f"{self.path}, step {self.step}",
                found=f"{len(self._pending)} rows at the end",
                expected=f"a whole step of {self._facts['batch']}",
                mend="feed whole steps, or name the batch that the trainer really has",
            )

    def _reopen(self, start: int) -> None:
        kept: tuple[StepDigest, ...] = ()
        known = read_digests(self.path) if self.path.is_file() and self.path.stat().st_size else None
        if known is not None:
            theirs = {key: getattr(known, key) for key in self._facts}
            if theirs != self._facts:
                raise CostarError(
                    str(self.path),
                    found=f"digests of {_text(theirs)}",
                    expected=_text(self._facts),
                    mend="give every run a file of its own, or remove this one",
                )
            kept = known.steps[:start]
        if len(kept) < start:
            raise CostarError(
                str(self.path),
                found=f"digests of {len(kept)} steps",
                expected=f"those of steps 0 to {start - 1}, which training continues",
                mend="continue from an earlier checkpoint or from the start: a digest covers everything before it",
            )
        lines = [step_line(number, each) for number, each in enumerate(kept)]
        if known is not None and kept:
            self._length, self._digest = known.sequence_length, kept[-1].digest
            lines.insert(0, self._header(known.sequence_length))
        write_text(self.path, "".join(lines))

    def _header(self, length: int) -> str:
        return json.dumps(self._facts | {"sequence_length": length}) + "\n"

    def _write(self, hashes: Sequence[bytes]) -> None:
        """One line, in one write, so that a killed process leaves whole lines."""
        self._digest = step_digest(self._digest, hashes)
        if self._writes:
            assert self._length is not None
            rows = None if len(hashes) == self._facts["batch"] else len(hashes)
            line = step_line(self.step, StepDigest(digest=self._digest, first_row=hashes[0], rows=rows))
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("" if self.step else self._header(self._length)) + line)
        self.step += 1


def joined_rows(ids: Ids, labels: Ids | None = None) -> NDArray[np.integer[Any]]:
    """The rows [n, L+1] of whole ids, or of inputs [n, L] and their next ids [n, L].

    Raises:
        CostarError: not whole numbers in two dimensions, or labels that do not continue their inputs.
    """
    rows = _array(ids)
    if labels is None:
        return rows
    following = _array(labels)
    if rows.shape != following.shape or not np.array_equal(rows[:, 1:], following[:, :-1]):
        raise CostarError(
            "labels",
            found=f"{_shape(following)} that are not the inputs {_shape(rows)} moved on by one",
            expected="labels[:, t] == inputs[:, t + 1]",
            mend="give inputs ids[:, :-1] with labels ids[:, 1:], or the whole ids alone",
        )
    return np.concatenate([rows, following[:, -1:]], axis=1)


def _text(facts: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items())


def _array(ids: Ids) -> NDArray[np.integer[Any]]:
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or array.shape[1] < 2:
        found = f"{array.dtype} {_shape(array)}"
        raise CostarError("rows of ids", found=found, expected="whole numbers [n, L + 1]", mend="give a batch of ids")
    return array


def _shape(array: NDArray[Any]) -> str:
    return f"[{', '.join(map(str, array.shape))}]"


def _exchanged(hashes: bytes, group: Any) -> list[bytes]:
    """The row hashes of every process, in the order of the ranks; their numbers of rows may differ."""
    if group is not None:
        size = torch.tensor([len(hashes)])
        sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size(group))]
        dist.all_gather(sizes, size, group=group)
        mine = torch.zeros(max(int(each) for each in sizes), dtype=torch.uint8)
        mine[: len(hashes)] = torch.frombuffer(bytearray(hashes), dtype=torch.uint8) if hashes else mine[:0]
        parts = [torch.zeros_like(mine) for _ in sizes]
        dist.all_gather(parts, mine, group=group)
        hashes = b"".join(part[: int(each)].numpy().tobytes() for part, each in zip(parts, sizes))
    return [hashes[i : i + HASH_BYTES] for i in range(0, len(hashes), HASH_BYTES)]
