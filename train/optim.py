"""Optimizers: AdamW for everything, or Muon for the matrices of the blocks and AdamW for the rest.

Both work on whole parameters and on parameters that FSDP2 has sharded by rows. AdamW is elementwise; Muon needs whole
matrices, so momentum is gathered at one process a matrix, which orthogonalizes it for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..core.design import TrainDesign
from .gradients import owner_rows
from .world import World

BETAS = (0.9, 0.95)
MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def local(tensor: Tensor) -> Tensor:
    """The rows of a tensor that lie in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def orthogonalized(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest matrix with singular values near one: five quintic Newton-Schulz steps (Jordan 2024, Muon)."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized, with Nesterov's look ahead; the step has the root mean square of AdamW's
    (Liu et al. 2025, arXiv 2502.16982, eq. 4). Products of the orthogonalization are in `dtype`.
    """

    def __init__(self, matrices: Iterable[Tensor], *, lr: float, weight_decay: float, dtype: torch.dtype, world: World):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self.dtype, self.world = dtype, world

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(tuple(parameter.shape), []).append(parameter)
            for same in shapes.values():
                owners = self._owners(same[0])
                for first in range(0, len(same), owners):
                    self._update(same[first : first + owners], group["lr"], group["weight_decay"])

    def _owners(self, parameter: Tensor) -> int:
        """How many processes share the work on equal matrices."""
        if isinstance(parameter, DTensor):
            return int(parameter.device_mesh.size(parameter.device_mesh.ndim - 1))
        return self.world.size

    def _update(self, parameters: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        """Update at most one matrix for each owner."""
        updates = []
        for parameter in parameters:
            grad, state = local(_grad(parameter)), self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = local(state["momentum"])
            momentum.lerp_(grad, 1 - MOMENTUM)
            updates.append(grad.lerp(momentum, MOMENTUM))
        one = parameters[0]
        steps = self._exchanged(one, updates) if isinstance(one, DTensor) else self._shared(updates)
        scale = lr * 0.2 * math.sqrt(max(parameters[0].shape))
        for parameter, step in zip(parameters, steps, strict=True):
            local(parameter).mul_(1 - lr * weight_decay).add_(step, alpha=-scale)

    def _shared(self, updates: Sequence[Tensor]) -> list[Tensor]:
        """Every process holds every matrix: each orthogonalizes one and tells the others."""
        if self.world.size == 1:
            return [orthogonalized(update, self.dtype) for update in updates]
        steps = []
        for owner, update in enumerate(updates):
            mine = owner == self.world.rank
            steps.append(orthogonalized(update, self.dtype).contiguous() if mine else update.to(self.dtype))
        for owner, step in enumerate(steps):
            dist.broadcast(step, owner)
        return steps

    def _exchanged(self, parameter: DTensor, updates: Sequence[Tensor]) -> list[Tensor]:
        """Every process holds some rows of every matrix: rows go to the owner and come back as rows of the result."""
        mesh = parameter.device_mesh
        dim = mesh.ndim - 1
        size, rank, group = mesh.size(dim), mesh.get_local_rank(dim), mesh.get_group(dim)
        rows, columns = parameter.shape
        held = owner_rows(rows, size)
        sent = [held[rank] * columns if owner < len(updates) else 0 for owner in range(size)]
        received = [count * columns if rank < len(updates) else 0 for count in held]
        whole = updates[0].new_empty(sum(received), dtype=self.dtype)
        parts = torch.cat([update.to(self.dtype).reshape(-1) for update in updates])
        dist.all_to_all_single(whole, parts, received, sent, group=group)
        if rank < len(updates):
            whole = orthogonalized(whole.view(rows, columns), self.dtype).reshape(-1).contiguous()
        back = torch.empty_like(parts)
        dist.all_to_all_single(back, whole, sent, received, group=group)
        return [part.view(held[rank], columns) for part in torch.split(back, [held[rank] * columns] * len(updates))]


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


class Optimizers:
    """The optimizers of a model as one, with a state that is a flat dictionary of tensors by parameter name."""

    def __init__(self, model: nn.Module, design: TrainDesign, *, dtype: torch.dtype, world: World):
        self.names = dict(model.named_parameters())
        self.parts: list[torch.optim.Optimizer]
        if design.optimizer == "muon":
            matrices = {name for name, p in self.names.items() if p.dim() == 2 and ".layers." in name}
            others = [p for name, p in self.names.items() if name not in matrices]
            self.parts = [
                Muon(
                    [self.names[name] for name in self.names if name in matrices],
                    lr=design.lr,
                    weight_decay=design.weight_decay,
                    dtype=dtype,
                    world=world,
                ),
                torch.optim.AdamW(others, lr=design.lr, betas=BETAS, weight_decay=0.0, fused=True),
            ]
        else:
            groups = [
                {"params": [p for p in self.names.values() if p.dim() == 2], "weight_decay": design.weight_decay},
                {"params": [p for p in self.names.values() if p.dim() != 2], "weight_decay": 0.0},
            ]
            self.parts = [torch.optim.AdamW(groups, lr=design.lr, betas=BETAS, fused=True)]

    def step(self, lr: float) -> None:
        """One update at this rate; gradients are dropped afterwards."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state, named `<parameter>|<entry>`, in a fixed order."""
        names = {id(parameter): name for name, parameter in self.names.items()}
        found = {
            f"{names[id(parameter)]}|{entry}": tensor
            for part in self.parts
            for parameter, entries in part.state.items()
            for entry, tensor in entries.items()
        }
        return dict(sorted(found.items()))

    def make_state(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Empty tensors for the entries of a saved state, shaped and sharded like their parameters, to be filled."""
        owners = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        for key in keys:
            name, entry = key.split("|")
            parameter = self.names[name]
            if entry == "step":
                device = parameter.device if parameter.device.type == "cuda" else torch.device("cpu")
                value = torch.zeros((), dtype=torch.float32, device=device)
            else:
                value = torch.zeros_like(parameter)
            owners[id(parameter)].state[parameter][entry] = value.detach()
        return self.state()
