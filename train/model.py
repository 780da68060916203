"""A Llama-architecture language model with Hugging Face key names.

Shapes in comments: B sequences, T positions, D hidden size, H query heads, K key/value heads, C head size, V ids.
The parameters are exactly those of `transformers.LlamaForCausalLM` (RMSNorm, rotary positions, SwiGLU, grouped
queries, no biases), so an export is a copy of the state dict and the logits agree.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..core.models import ModelShape
from .attention import LONGEST, causal_attention, rotate
from .loss import softmax_gradient, summed_cross_entropy
from .norm import rms_norm


def as_tensor(value: Any) -> Tensor:
    """What a module returns is a tensor: torch's call operator has no type."""
    assert isinstance(value, Tensor)
    return value


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type  # one cast here instead of one before each product that reads it
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if device == "cpu" and x.dtype == self.weight.dtype:
            return rms_norm(x, self.weight, self.eps, dtype)
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps).to(dtype)


def rotary_tables(shape: ModelShape, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [T, C/2] for the positions [T], or [B, 1, T, C/2] for [B, T], in float32."""
    half = torch.arange(0, shape.head_size, 2, dtype=torch.float32, device=positions.device) / shape.head_size
    angles = positions.float()[..., None] / shape.rope_theta**half
    angles = angles[:, None] if positions.dim() == 2 else angles
    return angles.cos(), angles.sin()


class Attention(nn.Module):
    def __init__(self, shape: ModelShape):
        super().__init__()
        self.shape = shape
        kv_size = shape.kv_heads * shape.head_size
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv_size, bias=False)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, hidden = x.shape
        heads, kv_heads, head_size = self.shape.heads, self.shape.kv_heads, self.shape.head_size
        q = self.q_proj(x).view(batch, length, heads, head_size)
        k = self.k_proj(x).view(batch, length, kv_heads, head_size)
        v = self.v_proj(x).view(batch, length, kv_heads, head_size)
        dtype, on_cpu = v.dtype, x.device.type == "cpu"
        with torch.autocast(x.device.type, enabled=False):
            if on_cpu and dtype == torch.bfloat16 and mask is None and length <= LONGEST:
                out = causal_attention(q, k, v, cos, sin)
            else:
                q, k = (rotate(each.transpose(1, 2).float(), cos, sin) for each in (q, k))
                kind = torch.float32 if on_cpu else dtype  # on CPU the faster kernel (docs/log.md, 2026-11-24)
                out = F.scaled_dot_product_attention(
                    q.to(kind),
                    k.to(kind),
                    v.transpose(1, 2).to(kind),
                    attn_mask=mask,
                    is_causal=mask is None,
                    enable_gqa=kv_heads != heads,
                )
                out = out.to(dtype).transpose(1, 2)
        return as_tensor(self.o_proj(out.reshape(batch, length, hidden)))


class FeedForward(nn.Module):
    def __init__(self, shape: ModelShape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return as_tensor(self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)))


class Block(nn.Module):
    def __init__(self, shape: ModelShape):
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return as_tensor(x + self.mlp(self.post_attention_layernorm(x)))


class Trunk(nn.Module):
    """Embeddings, blocks and the last norm: the part that transformers calls `model`."""

    def __init__(self, shape: ModelShape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.norm_eps)


class Llama(nn.Module):
    """Token ids [B, T] to logits [B, T, V]."""

    def __init__(self, shape: ModelShape):
        super().__init__()
        self.shape = shape
        self.recompute = False  # set by who trains: activations of the blocks are computed again in the backward pass
        self.softmax = softmax_gradient  # replaced by its compiled form where blocks are compiled
        self.model = Trunk(shape)
        self.lm_head = nn.Linear(shape.hidden, shape.vocab_size, bias=False)
        if shape.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        targets: Tensor | None = None,
        by_row: bool = False,
    ) -> Tensor:
        """Logits [B, T, V], or with `targets` [B, T] the sum of their cross-entropies in nats, a float32 scalar, or a sum
        for each row [B] (`by_row`).

        The loss reads the weight of the head here, inside the forward of the root module, where a sharded weight is whole.
        """
        x = self.states(ids, positions, mask)
        if targets is None:
            return as_tensor(self.lm_head(x))
        if by_row:
            rows = zip(x, targets, strict=True)
            return torch.stack([summed_cross_entropy(own, self.lm_head.weight, ids, self.softmax) for own, ids in rows])
        return summed_cross_entropy(x.flatten(0, 1), self.lm_head.weight, targets.flatten(), self.softmax)

    def states(self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """What the head reads, [B, T, D].

        `positions` [T] or [B, T] and a boolean `mask` [T, T] or [B, 1, T, T] (true: may look) replace the causal default.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        cos, sin = rotary_tables(self.shape, positions)
        x = self.model.embed_tokens(ids)
        for block in self.model.layers:
            given = (x, cos, sin, mask)
            x = checkpoint(block, *given, use_reentrant=False) if self.recompute else block(*given)
        return as_tensor(self.model.norm(x))
