"""Causal attention for training on CPU in bfloat16: blocks of queries, products by the library of matrix products.

Shapes in comments: B sequences, H query heads, K key/value heads, N heads of all sequences, T positions, C head size,
t queries of a block, s keys up to its end. The fused kernel of torch 2.13 takes 1.2 to 1.6 times as long for sequences of
up to 1,024 positions (docs/log.md, 2026-11-24). It computes the same: rotary embedding, scores and softmax in float32,
the other products in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST = 1024  # beyond it the probabilities that are kept for the backward pass take too much memory


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (RoFormer, arXiv 2104.09864, eq. 34) of x [..., T, C] by tables [T, C/2]; the other way by −sin.

    As in transformers, entry i turns with entry i + C/2.
    """
    left, right = x.chunk(2, dim=-1)
    turned = torch.addcmul(left * cos, right, sin, value=-1), torch.addcmul(right * cos, left, sin)
    return torch.cat(turned, dim=-1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Attention of bfloat16 queries [B, T, H, C], keys and values [B, T, K, C], before the rotary embedding by float32
    tables [T, C/2]: bfloat16 [B, T, H, C]. T ≤ LONGEST.

    Fewer heads of keys and values than of queries are shared by as many queries each (grouped queries).
    """
    function: Any = _CausalAttention  # torch gives `apply` no type
    out = function.apply(q, k, v, cos, sin)
    assert isinstance(out, Tensor)
    return out


def _blocks(length: int) -> list[tuple[int, int]]:
    """First and last-plus-one query of each block: at most four, so that a compiler's graph stays small."""
    size = max(64, -(-length // 4))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _heads_first(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, T, H, C] as [B, H, T, C], laid out in this order."""
    return x.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)


def _shared_by(x: Tensor, queries: int) -> Tensor:
    """[B, K, T, C] as [N, T, C], every head as often as queries share it."""
    return x.repeat_interleave(queries, dim=1).flatten(0, 1) if queries > 1 else x.flatten(0, 1)


def _positions_first(x: Tensor, batch: int, queries: int, dtype: torch.dtype) -> Tensor:
    """[N, T, C] as [B, T, K, C], laid out in this order: the sum over the queries that share a head."""
    x = x.view(batch, -1, queries, *x.shape[1:])
    x = x.sum(2) if queries > 1 else x.squeeze(2)
    return x.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, heads, size = q.shape
        shared, dtype, scale = heads // k.shape[2], v.dtype, size**-0.5
        wide_q = rotate(_heads_first(q, cos.dtype), cos * scale, sin * scale).flatten(0, 1)
        wide_k = _shared_by(rotate(_heads_first(k, cos.dtype), cos, sin), shared)
        v = _shared_by(_heads_first(v, dtype), shared)
        turned = wide_k.transpose(1, 2)
        outs, kept = [], []
        for start, end in _blocks(length):
            scores = torch.bmm(wide_q[:, start:end], turned[:, :, :end])  # [N, t, s]
            later = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
            scores[:, :, start:].masked_fill_(later, -torch.inf)
            weights = F.softmax(scores, dim=-1).to(dtype)
            outs.append(torch.bmm(weights, v[:, :end]).view(batch, heads, -1, size).transpose(1, 2))
            kept.append(weights)
        out = torch.cat(outs, dim=1)  # [B, T, H, C]
        ctx.shared = shared
        ctx.save_for_backward(wide_q.to(dtype), wide_k.to(dtype), v, cos, sin, out, *kept)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, cos, sin, out, *kept = ctx.saved_tensors
        batch, length, _, size = out.shape
        dot = (upstream * out).sum(-1, dtype=cos.dtype).transpose(1, 2).reshape(-1, length, 1)  # [N, T, 1]
        upstream = _heads_first(upstream, v.dtype).flatten(0, 1)
        by_q = []
        by_k = torch.zeros(k.shape, dtype=cos.dtype)
        by_v = torch.zeros(v.shape, dtype=cos.dtype)
        for (start, end), weights in zip(_blocks(length), kept, strict=True):
            part = upstream[:, start:end]
            by_v[:, :end] += torch.bmm(weights.transpose(1, 2), part)
            by_weights = torch.bmm(part, v[:, :end].transpose(1, 2))
            by_scores = ((by_weights - dot[:, start:end]) * weights).to(v.dtype)
            by_q.append(torch.bmm(by_scores, k[:, :end]))
            by_k[:, :end] += torch.bmm(by_scores.transpose(1, 2), q[:, start:end])
        scale = size**-0.5
        turned_q = rotate(torch.cat(by_q, dim=1).to(cos.dtype), cos * scale, sin * -scale)
        grads = (turned_q, rotate(by_k, cos, -sin), by_v)
        by_inputs = [
            _positions_first(x, batch, shared, v.dtype) for x, shared in zip(grads, (1, ctx.shared, ctx.shared))
        ]
        return *by_inputs, None, None
