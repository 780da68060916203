"""What measurements ask of a model, whoever made it: states, logits, and greedy continuations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ..train.model import Llama
from .generate import generate


class Reader(Protocol):
    """Shapes in comments: B sequences, T positions, D size of the states, V ids.

    `longest` is how many ids the model can read at once; `begin` the id that stands before a text, `end` the one behind it.
    `packs` says whether the model obeys masks and positions, so that texts with one beginning can share a row.
    """

    vocab_size: int
    longest: int
    begin: int
    end: int
    packs: bool
    module: nn.Module

    @property
    def device(self) -> torch.device: ...

    def states(self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """What the head reads, [B, T, D]; `positions` [T] or [B, T], `mask` [T, T] or [B, 1, T, T] (true: may look)."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Float32 [..., V] for states [..., D]."""
        ...

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int] | None]:
        """The greedy continuation of each prompt, at most `new_tokens` ids, up to and without `end`; None where logits are
        no numbers."""
        ...


class OwnReader:
    """A model of costar's own, in float32. Its padded outputs are cut off: they have no token."""

    def __init__(self, model: Llama, *, vocab_size: int, longest: int, eos: int):
        self.model, self.vocab_size, self.longest = model.eval(), vocab_size, longest
        self.module: nn.Module = self.model
        self.begin = self.end = eos
        self.packs = True
        self.head = model.lm_head.weight[:vocab_size].detach()

    @property
    def device(self) -> torch.device:
        return self.head.device

    @torch.no_grad()
    def states(self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.model.states(ids, positions, mask)

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        return (states @ self.head.T).float()

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int] | None]:
        return generate(self.model, self.vocab_size, prompts, new_tokens, self.end)
