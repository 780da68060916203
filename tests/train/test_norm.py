from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from costar.train.norm import rms_norm

EPS = 1e-5


@pytest.mark.parametrize(
    ("wide", "dtype", "near"),
    [
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 1e-5),
        (torch.float32, torch.bfloat16, 1e-2),  # bfloat16 keeps 8 bits
    ],
)
def test_the_norm_and_its_gradients_are_those_of_torch(wide: torch.dtype, dtype: torch.dtype, near: float) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 50, 48, generator=generator).mul_(3).to(wide)
    x[0, 0] = 0  # what eps is for
    weight, upstream = (torch.randn(size, generator=generator).to(wide) for size in ((48,), (3, 50, 48)))
    inputs = [each.requires_grad_() for each in (x, weight)]
    exact = [each.detach().double().requires_grad_() for each in inputs]
    expected = F.rms_norm(exact[0], (48,), exact[1], EPS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rms_norm(*inputs, EPS, dtype)
        gradients = torch.autograd.grad(found, inputs, upstream.to(dtype))
    wanted = torch.autograd.grad(expected, exact, upstream.double())
    assert found.dtype == dtype
    for a, b in zip((found, *gradients), (expected, *wanted), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=near, atol=near * b.abs().max().item())
    assert [each.dtype for each in gradients] == [wide, wide]
