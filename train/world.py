"""The processes of one run: who they are, which rows of a batch each takes, and how they tell each other small things.

One process on a CPU, several with gloo and many with a GPU each are the same code: a world of one exchanges nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(minutes=30)  # the slowest collective waits for a rank that writes a checkpoint


@dataclass(frozen=True, kw_only=True)
class World:
    """`rank` of `size` processes, `node` of them on each machine, and two groups over which they exchange values that
    lie on the CPU: `bytes_group` during training, `files_group` while a checkpoint is written. A group is None in a world of one.
    """

    rank: int = 0
    size: int = 1
    node: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bytes_group: Any = None
    files_group: Any = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def rows(self, batch: int) -> tuple[int, int]:
        """The rows [first, last) of a batch that this process takes: contiguous, so that a batch keeps its order."""
        return shard_range(batch, self.rank, self.size)

    def gather(self, value: Any, group: Any = None) -> list[Any]:
        """The value of every process, in the order of the ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=group or self.bytes_group)
        return found

    def collect(self, value: Any, group: Any) -> list[Any]:
        """The value of every process at the first one, in the order of the ranks; nothing elsewhere."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(value, found, dst=0, group=group)
        return found or []

    def gather_bytes(self, value: bytes, longest: int) -> list[bytes]:
        """The bytes of every process, in the order of the ranks; none has more than `longest`."""
        if self.size == 1:
            return [value]
        assert len(value) <= longest, (len(value), longest)
        mine = torch.zeros(longest + 8, dtype=torch.uint8)
        mine[:8] = torch.tensor(list(len(value).to_bytes(8, "little")), dtype=torch.uint8)
        if value:
            mine[8 : 8 + len(value)] = torch.frombuffer(bytearray(value), dtype=torch.uint8)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine, group=self.bytes_group)
        raw = [part.numpy().tobytes() for part in parts]
        return [each[8 : 8 + int.from_bytes(each[:8], "little")] for each in raw]


def shard_range(total: int, rank: int, size: int) -> tuple[int, int]:
    """The part [first, last) of `total` rows that a rank holds: that of torch.chunk, as FSDP2 cuts parameters."""
    each = -(-total // size)
    return min(total, rank * each), min(total, (rank + 1) * each)


def join_world(device: torch.device) -> World:
    """The world that torchrun describes in the environment, or a world of one.

    Raises:
        RuntimeError: the other processes cannot be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(device=device)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    groups = [dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2)]
    return World(
        rank=dist.get_rank(),
        size=size,
        node=int(os.environ.get("LOCAL_WORLD_SIZE", str(size))),
        device=device,
        bytes_group=groups[0],
        files_group=groups[1],
    )


def leave_world() -> None:
    """Close the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def micro_batches(rows: tuple[int, int], most: int, count: int) -> Iterator[range]:
    """`count` groups of at most `most` of the rows [first, last), in order; the last groups may be empty."""
    first, last = rows
    for number in range(count):
        yield range(min(last, first + number * most), min(last, first + (number + 1) * most))
