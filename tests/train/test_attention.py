from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from costar.train.attention import causal_attention
from torch import Tensor


def drawn(length: int, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    q, k, v, g = (torch.randn(2, n, length, 32, generator=generator) for n in (heads, kv_heads, kv_heads, heads))
    return q.requires_grad_(), k.requires_grad_(), v.bfloat16().requires_grad_(), g.bfloat16()


@pytest.mark.parametrize(("length", "heads", "kv_heads"), [(1, 2, 2), (50, 2, 2), (200, 4, 2), (300, 2, 1)])
def test_causal_attention_and_its_gradients_are_those_of_torch(length: int, heads: int, kv_heads: int) -> None:
    q, k, v, upstream = drawn(length, heads, kv_heads)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*wide, is_causal=True, enable_gqa=heads != kv_heads)
    found = causal_attention(q, k, v)
    assert found.dtype == torch.bfloat16
    gradients = torch.autograd.grad(found, (q, k, v), upstream)
    wanted = torch.autograd.grad(expected, wide, upstream.double())
    for a, b in zip((found, *gradients), (expected, *wanted), strict=True):
        # a single key gives q and k a gradient of zero: rounding is compared with the size of the upstream one
        assert (a.double() - b).norm() < 0.015 * (b.norm() + (0.3 * upstream.double().norm() if length == 1 else 0))


def test_no_position_sees_a_later_one() -> None:
    q, k, v, _ = drawn(130, 2, 2)
    with torch.no_grad():
        before = causal_attention(q, k, v)
        for x in (q, k, v):
            x[:, :, 100:] = 1e3
        after = causal_attention(q, k, v)
    assert torch.equal(before[:, :, :100], after[:, :, :100])
    assert not torch.equal(before[:, :, 100:], after[:, :, 100:])


def test_attention_repeats_bit_for_bit() -> None:
    q, k, v, upstream = drawn(256, 2, 2)
    first, second = (torch.autograd.grad(causal_attention(q, k, v), (q, k, v), upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
