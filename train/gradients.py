"""Sums of gradients over micro-batches and processes, where every process holds all parameters.

In canonical order a sum is a fixed binary tree over the micro-batches of a step: a process sums an aligned block of them,
and blocks are then summed as the upper part of the same tree. Floating-point addition does not associate, so this, and
not the order in which values happen to arrive, makes the bits independent of the number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .world import World, shard_range


class TreeSum:
    """A running sum of tensors as a binary tree: what is added at place i is combined as the bits of i say."""

    def __init__(self) -> None:
        self._partial: list[Tensor | None] = []

    def add(self, value: Tensor) -> None:
        """Take over `value`, which the caller no longer uses."""
        for level, waiting in enumerate(self._partial):
            if waiting is None:
                self._partial[level] = value
                return
            value = waiting.add_(value)
            self._partial[level] = None
        self._partial.append(value)

    def total(self) -> Tensor:
        """The sum; at least one tensor was added."""
        total: Tensor | None = None
        for waiting in self._partial:
            if waiting is not None:
                total = waiting if total is None else waiting.add_(total)
        assert total is not None
        self._partial = []
        return total


def tree_sum(values: Sequence[Tensor]) -> Tensor:
    """The sum of tensors in the order of the tree."""
    tree = TreeSum()
    for value in values:
        tree.add(value)
    return tree.total()


def sum_over_processes(flat: Tensor, world: World, *, canonical: bool) -> Tensor:
    """The sum of a flat tensor [n] over all processes, the same bits in each."""
    if world.size == 1:
        return flat
    if not canonical:
        dist.all_reduce(flat)
        return flat
    each = -(-len(flat) // world.size)
    padded = torch.zeros(each * world.size, dtype=flat.dtype, device=flat.device)
    padded[: len(flat)] = flat
    received = torch.empty_like(padded)
    dist.all_to_all_single(received, padded)
    mine = tree_sum(list(received.view(world.size, each)))
    dist.all_gather(list(padded.view(world.size, each)), mine.contiguous())
    return padded[: len(flat)]


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of any shape as one [n]."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of a flat tensor in the shapes of others."""
    parts = torch.split(flat, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def owner_rows(total: int, world_size: int) -> list[int]:
    """How many of `total` rows each process holds."""
    ranges = [shard_range(total, rank, world_size) for rank in range(world_size)]
    return [last - first for first, last in ranges]
