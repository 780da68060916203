from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from costar.core.models import ModelShape
from costar.train.init import init_weights
from costar.train.loss import chunk_sizes, summed_cross_entropy
from costar.train.model import Llama
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

TOKENS, HIDDEN, IDS = 1101, 32, 4096  # five chunks on CPU, not all of one size


def drawn(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(IDS, HIDDEN, generator=generator).mul(0.3).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, IDS, (TOKENS,), generator=generator)


def reference(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients by torch, in float64."""
    hidden, weight = (t.detach().double().requires_grad_() for t in (hidden, weight))
    loss = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    (loss * scale).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


def distance(a: Tensor | None, b: Tensor) -> float:
    assert a is not None
    return ((a.double() - b).norm() / b.norm()).item()


@pytest.mark.parametrize(
    ("dtype", "autocast", "near"),
    [
        (torch.float64, False, 1e-12),
        (torch.float32, False, 2e-6),
        (torch.float32, True, 1e-2),  # bfloat16 keeps 8 bits
        (torch.bfloat16, False, 1e-2),  # as a sharded weight is cast
    ],
)
def test_loss_and_gradients_are_those_of_cross_entropy(dtype: torch.dtype, autocast: bool, near: float) -> None:
    hidden, weight, targets = drawn(dtype)
    assert len(set(chunk_sizes(TOKENS, IDS, hidden.device))) == 2
    loss, by_hidden, by_weight = reference(hidden, weight, targets, 1 / 300)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = summed_cross_entropy(hidden, weight, targets)
    assert found.shape == ()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    (found / 300).backward()
    assert found.item() == pytest.approx(loss.item(), rel=near / 10)
    assert distance(hidden.grad, by_hidden) < near
    assert distance(weight.grad, by_weight) < near
    assert hidden.grad is not None
    assert weight.grad is not None
    assert hidden.grad.dtype == weight.grad.dtype == dtype


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor)]
        self.elements = max([self.elements, *(t.numel() for t in tensors)])
        return out


@pytest.mark.parametrize("grad", [True, False])
def test_no_tensor_holds_all_logits(grad: bool) -> None:
    hidden, weight, targets = drawn()
    with Largest() as seen, torch.set_grad_enabled(grad):
        loss = summed_cross_entropy(hidden, weight, targets)
        if grad:
            loss.backward()
    assert seen.elements == max(chunk_sizes(TOKENS, IDS, hidden.device)) * IDS
    assert seen.elements < TOKENS * IDS / 3


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_of_a_model_is_that_of_its_logits(tied: bool) -> None:
    model = Llama(ModelShape(layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, vocab_size=300, tied=tied))
    init_weights(model, 1, 0)
    ids = torch.randint(0, 300, (2, 41), generator=torch.Generator().manual_seed(0))
    expected = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    found = model(ids[:, :-1], targets=ids[:, 1:])
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for (name, parameter), a, b in zip(
        model.named_parameters(), torch.autograd.grad(found, list(model.parameters())), wanted, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        assert parameter.shape == a.shape


def test_chunks_cover_every_token_and_fit_their_bytes() -> None:
    for device, most in ((torch.device("cpu"), 2**22), (torch.device("cuda"), 2**30)):
        for tokens, vocab in ((1, 10), (2048, 1024), (32_768, 50_304)):
            sizes = chunk_sizes(tokens, vocab, device)
            assert sum(sizes) == tokens
            assert max(sizes) * vocab * 4 <= max(most, 64 * vocab * 4)
