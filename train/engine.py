"""The engine: a model and its optimizers, laid out over the processes of a run, and one update after another.

Every process holds all parameters and gradients are summed here (`sharding = "none"`), or FSDP2 shards parameters,
gradients and optimizer state by rows ("full", "hybrid": within a node, replicated across nodes). Parameters, moments and
reductions are float32; products are bfloat16 where the device has instructions for it. A step's gradient is that of the
mean over all targets of the global batch, whatever the number of processes and the size of micro-batches.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ..core.design import TrainDesign
from ..core.machine import LAYOUT_INVARIANT, Layout, check_invariant, resolved_micro_batch, resolved_sharding
from ..core.models import ModelShape
from .gradients import TreeSum, flatten, sum_over_processes, unflatten
from .identity import pick_dtype
from .loss import softmax_gradient
from .memory import keep_freed_memory
from .model import Llama
from .optim import Optimizers
from .world import World, micro_batches

CLIP = 1.0
EVALUATED = 8  # sequences of one pass without gradients


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a step measured, on the device: mean loss in nats a token, norm of the gradient before clipping."""

    loss: Tensor
    norm: Tensor


class Engine:
    """`micro_batch` is what the layout says or what a process has; `sharded` whether FSDP2 holds the parameters."""

    def __init__(self, shape: ModelShape, design: TrainDesign, layout: Layout, world: World):
        self.shape, self.design, self.layout, self.world = shape, design, layout, world
        self.dtype = pick_dtype(world.device)
        on_gpu = world.device.type == "cuda"
        self.invariant = layout.determinism == LAYOUT_INVARIANT
        self.sharding = resolved_sharding(layout, world.device.type)
        self.sharded = self.sharding != "none"
        self.compiled = on_gpu if layout.compile is None else layout.compile
        self.micro_batch = resolved_micro_batch(layout, design.batch, world.size)
        self.accumulation = -(-design.batch // (world.size * self.micro_batch))
        if self.invariant:
            check_invariant(design.batch, world.size, self.micro_batch)
            assert not self.sharded, "machine.toml is refused"
        if not on_gpu:
            keep_freed_memory()
        self.model = self._build()
        self.optimizers = Optimizers(self.model, design, dtype=self.dtype, world=world)

    def _build(self) -> Llama:
        with torch.device("meta" if self.sharded else self.world.device):
            model = Llama(self.shape)
        model.recompute = self.layout.recompute
        if self.compiled:
            for block in model.model.layers:
                block.compile(dynamic=False)
            model.softmax = torch.compile(softmax_gradient, dynamic=False)
        if self.sharded:
            shard(model, self.sharding, self.dtype, self.world)
            model.to_empty(device=self.world.device)
            if self.shape.tied:
                assert model.lm_head.weight is model.model.embed_tokens.weight
        return model

    def update(self, rows: NDArray[np.integer[Any]], lr: float) -> Update:
        """One update at rate `lr` on the rows [n, L+1] of this process (`world.rows` of the batch)."""
        ids = self._to_device(rows)
        scale = 1.0 / (self.design.batch * (ids.shape[1] - 1))
        loss = torch.zeros((), device=self.world.device)
        tree = TreeSum()
        groups = list(micro_batches((0, len(ids)), self.micro_batch, self.accumulation))
        for number, group in enumerate(groups):
            if self.sharded:
                self._sync(number == len(groups) - 1)
            part = ids[group.start : group.stop] if len(group) else ids[:1]
            share = self.loss_sum(part) * (scale if len(group) else 0.0)  # every process takes part in every exchange
            torch.autograd.backward(share)
            if self.invariant:
                tree.add(flatten([share.detach(), *self._take_gradients()]))
            else:
                loss += share.detach()
        if not self.sharded and (self.world.size > 1 or self.invariant):
            loss = self._reduce(loss, tree)
        elif self.sharded and self.world.size > 1:
            dist.all_reduce(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizers.step(lr)
        return Update(loss=loss, norm=norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _to_device(self, rows: NDArray[np.integer[Any]]) -> Tensor:
        ids = torch.from_numpy(rows.astype(np.int64))
        if self.world.device.type == "cuda":
            return ids.pin_memory().to(self.world.device, non_blocking=True)
        return ids

    def _sync(self, last: bool) -> None:
        """Exchange gradients after the last micro-batch only; until then they add up in float32."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(last)
        self.model.set_is_last_backward(last)

    def _take_gradients(self) -> list[Tensor]:
        grads = []
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            grads.append(parameter.grad)
            parameter.grad = None
        return grads

    def _reduce(self, loss: Tensor, tree: TreeSum) -> Tensor:
        """Sum loss and gradients over processes; the loss, as the first value, goes the same way."""
        flat = tree.total() if self.invariant else flatten([loss, *self._take_gradients()])
        flat = sum_over_processes(flat, self.world, canonical=self.invariant)
        parameters = list(self.model.parameters())
        for parameter, grad in zip(parameters, unflatten(flat[1:], parameters), strict=True):
            parameter.grad = grad
        return flat[0]

    def loss_sum(self, ids: Tensor, *, by_row: bool = False) -> Tensor:
        """The sum of cross-entropies in nats over the targets of ids [B, L+1], or of each row's [B]."""
        with self._precision():
            total: Tensor = self.model(ids[:, :-1], targets=ids[:, 1:], by_row=by_row)
        return total

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        """Autocast where parameters are float32 in the forward pass; FSDP2 casts them itself."""
        lower = self.dtype != torch.float32 and not self.sharded
        return torch.autocast(self.world.device.type, dtype=self.dtype, enabled=lower)

    def evaluate(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Mean cross-entropy in nats over the targets of each row [n] of [n, L+1], of which every process has all."""
        losses = torch.zeros(len(rows), dtype=torch.float64, device=self.world.device)
        passes = -(-len(rows) // EVALUATED)
        turns = -(-passes // self.world.size)
        with torch.no_grad():
            for turn in range(turns):
                number = turn * self.world.size + self.world.rank
                first = min(number, passes - 1) * EVALUATED  # a process without a pass left takes part in the exchanges
                part = self.loss_sum(self._to_device(rows[first : first + EVALUATED]), by_row=True)
                if number < passes:
                    losses[first : first + EVALUATED] = part.double()
        for unit in self.model.modules():
            if isinstance(unit, FSDPModule):
                unit.reshard()  # without a backward pass, gathered weights would stay in place of the shards
        if self.world.size > 1:
            dist.all_reduce(losses)
        return np.asarray(losses.cpu().numpy() / (rows.shape[1] - 1))


def shard(model: Llama, sharding: str, dtype: torch.dtype, world: World) -> None:
    """Let FSDP2 hold the model: each block is a unit, and embeddings, last norm and head are one.

    Gradients are summed, not averaged: losses are divided by the size of the global batch already.
    """
    kind, nodes = world.device.type, world.size // world.node
    if kind == "cuda":
        torch.cuda.set_device(world.device)
    if not dist.is_initialized():
        dist.init_process_group(
            "gloo" if world.device.type == "cpu" else "nccl", store=HashStore(), rank=0, world_size=1
        )
    if sharding == "hybrid" and nodes > 1:
        mesh = init_device_mesh(kind, (nodes, world.node), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh(kind, (world.size,), mesh_dim_names=("shard",))
    # Inputs are not cast: the tables of the rotary embedding stay float32.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    units = [*model.model.layers, model]
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=world.size > 1)
    for unit in units:
        assert isinstance(unit, FSDPModule)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
