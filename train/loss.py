"""Cross-entropy of a language model without its logits: they exist for a chunk of tokens at a time.

Shapes in comments: N tokens, n tokens of a chunk, D hidden size, V ids.
The gradients are computed with the loss, chunk by chunk, as in Liger's fused linear cross-entropy (arXiv 2410.10989):
d loss / d logits = softmax(logits) − one_hot(target), so nothing of size N × V is kept for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Softmax = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def summed_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, softmax: Softmax | None = None) -> Tensor:
    """Sum over N tokens of −log softmax(hidden [N, D] · weight [V, D]ᵀ)[target], in nats, as a float32 scalar.

    Products run in the dtype of autocast, or of `weight`; softmax and sums in float32 (float64 for float64 weights).
    The gradient of `weight` is summed over chunks in float32. `softmax` is `softmax_gradient`, possibly compiled.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    loss = _SummedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, dtype, torch.is_grad_enabled(), softmax or softmax_gradient
    )
    assert isinstance(loss, Tensor)
    return loss


def softmax_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of logits [n, V], and its gradient by the logits in their dtype."""
    logp = torch.log_softmax(logits, dim=-1, dtype=_wide(logits.dtype))
    where = targets[:, None]
    loss = -logp.gather(1, where).sum()
    gradient = logp.exp_().scatter_add_(1, where, torch.full_like(where, -1, dtype=logp.dtype))
    return loss, gradient.to(logits.dtype)


def chunk_sizes(tokens: int, vocab: int, device: torch.device) -> list[int]:
    """Tokens of each chunk, nearly equal: float32 logits of 1 GiB on a GPU, which keeps its products large, 4 MiB on CPU.

    A function of shape and kind of device only, since the order of sums decides bits.
    """
    most = (2**30 if device.type != "cpu" else 2**22) // (4 * vocab)
    count = math.ceil(tokens / max(most, 64))
    return [(tokens + part) // count for part in range(count)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, train: bool, softmax: Softmax
    ) -> Tensor:
        wide = _wide(dtype)
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        ctx.dtypes = hidden.dtype, weight.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            states, head = hidden.to(dtype), weight.to(dtype)
            hidden_gradient = torch.empty_like(states) if train else None
            weight_gradient = torch.zeros(weight.shape, dtype=wide, device=weight.device) if train else None
            sizes = chunk_sizes(len(targets), len(head), hidden.device)
            parts = zip(torch.split(states, sizes), torch.split(targets, sizes), strict=True)
            start = 0
            for state, target in parts:
                logits = state @ head.T
                part, gradient = softmax(logits, target)
                loss += part
                if hidden_gradient is not None and weight_gradient is not None:
                    torch.mm(gradient, head, out=hidden_gradient[start : start + len(state)])
                    _add_product(weight_gradient, gradient.T, state)
                start += len(state)
        if train:
            ctx.save_for_backward(hidden_gradient, weight_gradient)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        to_hidden, to_weight = ctx.dtypes
        by_hidden = (hidden_gradient * upstream).to(to_hidden) if ctx.needs_input_grad[0] else None
        by_weight = (weight_gradient * upstream).to(to_weight) if ctx.needs_input_grad[1] else None
        return by_hidden, by_weight, None, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left · right, where the total may be of a wider dtype than the factors."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
