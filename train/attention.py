"""Causal attention for training on CPU in bfloat16: blocks of queries, products by the library of matrix products.

Shapes in comments: N heads of all sequences, T positions, C head size, t queries of a block, s keys up to its end.
The fused kernel of torch 2.13 takes 1.2 to 1.6 times as long for sequences of up to 1,024 positions
(docs/log.md, 2026-11-24). It computes the same: scores and softmax in float32, the other products in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST = 1024  # beyond it the probabilities that are kept for the backward pass take too much memory


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of float32 queries and keys [B, H, T, C] and bfloat16 values: bfloat16 [B, H, T, C]. T ≤ LONGEST.

    Fewer heads of keys and values than of queries are shared by as many queries each (grouped queries).
    """
    shared = q.shape[1] // k.shape[1]
    if shared > 1:
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    function: Any = _CausalAttention  # torch gives `apply` no type
    out = function.apply(*(x.reshape(-1, *x.shape[2:]) for x in (q, k, v)))
    assert isinstance(out, Tensor)
    return out.view(q.shape)


def _blocks(length: int) -> list[tuple[int, int]]:
    """First and last-plus-one query of each block: at most four, so that a compiler's graph stays small."""
    size = max(64, -(-length // 4))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5
        scaled, turned = q * scale, k.transpose(1, 2)
        outs, kept = [], []
        for start, end in _blocks(q.shape[1]):
            scores = torch.bmm(scaled[:, start:end], turned[:, :, :end])  # [N, t, s]
            later = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
            scores[:, :, start:].masked_fill_(later, -torch.inf)
            weights = F.softmax(scores, dim=-1).to(v.dtype)
            outs.append(torch.bmm(weights, v[:, :end]))
            kept.append(weights)
        out = torch.cat(outs, dim=1)
        ctx.save_for_backward(scaled.to(v.dtype), k.to(v.dtype), v, out, *kept)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, *kept = ctx.saved_tensors
        dot = (upstream * out).sum(-1, keepdim=True, dtype=torch.float32)  # [N, T, 1]
        by_q = []
        by_k = torch.zeros(k.shape, dtype=torch.float32)
        by_v = torch.zeros(v.shape, dtype=torch.float32)
        for (start, end), weights in zip(_blocks(q.shape[1]), kept, strict=True):
            part = upstream[:, start:end]
            by_v[:, :end] += torch.bmm(weights.transpose(1, 2), part)
            by_weights = torch.bmm(part, v[:, :end].transpose(1, 2))
            by_scores = ((by_weights - dot[:, start:end]) * weights).to(q.dtype)
            by_q.append(torch.bmm(by_scores, k[:, :end]))
            by_k[:, :end] += torch.bmm(by_scores.transpose(1, 2), q[:, start:end])
        return torch.cat(by_q, dim=1).float() * k.shape[-1] ** -0.5, by_k, by_v.to(v.dtype)
