"""Initial weights: functions of (suite seed, draw, parameter name, row), so no layout changes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..core.hashing import keyed_seed
from .optim import local
from .world import shard_range

BLOCK = 256  # rows that share a random stream: a process draws the blocks that it holds a part of
STD = 0.02  # N(0, 0.02²), as Hubble's configurations say

Rows = Callable[[str, int, int], Tensor]


def random_rows(seed: int, draw: int, name: str, columns: int, first: int, last: int) -> Tensor:
    """Rows [first, last) of a matrix with `columns` columns from N(0, 0.02²), float32."""
    blocks = []
    for block in range(first // BLOCK, -(-last // BLOCK)):
        generator = torch.Generator().manual_seed(keyed_seed(seed, draw, "init", name, block))
        whole = torch.empty(BLOCK, columns).normal_(0.0, STD, generator=generator)
        blocks.append(whole[max(first - block * BLOCK, 0) : last - block * BLOCK])
    return torch.cat(blocks) if blocks else torch.empty(0, columns)


def init_weights(model: nn.Module, seed: int, draw: int) -> None:
    """Fill every matrix with random rows; norms start at one."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def rows(name: str, first: int, last: int) -> Tensor:
        if len(shapes[name]) == 1:
            return torch.ones(last - first)
        return random_rows(seed, draw, name, shapes[name][1], first, last)

    fill(dict(model.named_parameters()), rows)


def fill(tensors: Mapping[str, Tensor], rows: Rows) -> None:
    """Copy values into tensors, whole or sharded by rows: `rows(name, first, last)` gives what this process holds.

    A scalar is asked for as row 0 to 1.
    """
    with torch.no_grad():
        for name, tensor in tensors.items():
            first, last = held_rows(tensor)
            target = local(tensor)
            if last > first:
                target.copy_(rows(name, first, last).reshape(target.shape))


def held_rows(tensor: Tensor) -> tuple[int, int]:
    """The rows [first, last) of a tensor that lie in this process; 0 to 1 for a scalar."""
    if not isinstance(tensor, DTensor):
        return 0, (tensor.shape[0] if tensor.dim() else 1)
    mesh = tensor.device_mesh
    dim = mesh.ndim - 1
    first, last = shard_range(tensor.shape[0], mesh.get_local_rank(dim), mesh.size(dim))
    assert len(tensor.to_local()) == last - first, (tensor.shape, first, last)
    return first, last
