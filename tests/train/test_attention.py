from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from costar.train.attention import causal_attention, rotate
from torch import Tensor


def drawn(length: int, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    q, k, v, g = (
        torch.randn(2, length, n, 32, generator=generator).bfloat16() for n in (heads, kv_heads, kv_heads, heads)
    )
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), g


def tables(length: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(length)[:, None] / 100 ** torch.linspace(0, 1, 16)
    return angles.cos(), angles.sin()


def wide_attention(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same by torch, in the dtype of the inputs; rotated as complex numbers."""
    turn = torch.complex(cos.double(), sin.double())
    first = [x.transpose(1, 2) for x in (q, k, v)]
    for i in (0, 1):
        z = torch.complex(*first[i].chunk(2, dim=-1)) * turn
        first[i] = torch.cat((z.real, z.imag), dim=-1)
    out = F.scaled_dot_product_attention(*first, is_causal=True, enable_gqa=q.shape[2] != k.shape[2])
    return out.transpose(1, 2)


@pytest.mark.parametrize(("length", "heads", "kv_heads"), [(1, 2, 2), (50, 2, 2), (200, 4, 2), (300, 2, 1)])
def test_causal_attention_and_its_gradients_are_those_of_torch(length: int, heads: int, kv_heads: int) -> None:
    q, k, v, upstream = drawn(length, heads, kv_heads)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected = wide_attention(*wide, *tables(length))
    found = causal_attention(q, k, v, *tables(length))
    assert found.dtype == torch.bfloat16
    gradients = torch.autograd.grad(found, (q, k, v), upstream)
    wanted = torch.autograd.grad(expected, wide, upstream.double())
    for a, b in zip((found, *gradients), (expected, *wanted), strict=True):
        # a single key gives q and k a gradient of zero: rounding is compared with the size of the upstream one
        assert (a.double() - b).norm() < 0.015 * (b.norm() + (0.3 * upstream.double().norm() if length == 1 else 0))


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
def test_its_gradients_are_exact_in_float64(heads: int, kv_heads: int) -> None:
    inputs = [x.detach().double().requires_grad_() for x in drawn(130, heads, kv_heads)]
    q, k, v, upstream = inputs
    cos, sin = (table.double() for table in tables(130))
    found, expected = causal_attention(q, k, v, cos, sin), wide_attention(q, k, v, cos, sin)
    for a, b in zip(*(torch.autograd.grad(out, (q, k, v), upstream) for out in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(rotate(rotate(q.transpose(1, 2), cos, sin), cos, -sin), q.transpose(1, 2))


def test_no_position_sees_a_later_one() -> None:
    q, k, v, _ = drawn(130, 2, 2)
    with torch.no_grad():
        before = causal_attention(q, k, v, *tables(130))
        for x in (q, k, v):
            x[:, 100:] = 1e3
        after = causal_attention(q, k, v, *tables(130))
    assert torch.equal(before[:, :100], after[:, :100])
    assert not torch.equal(before[:, 100:], after[:, 100:])


def test_attention_repeats_bit_for_bit() -> None:
    q, k, v, upstream = drawn(256, 2, 2)
    first, second = (
        torch.autograd.grad(causal_attention(q, k, v, *tables(256)), (q, k, v), upstream) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
