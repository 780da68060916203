"""Greedy continuations of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .reader import Reader


@torch.no_grad()
def generate(reader: Reader, prompts: Sequence[Sequence[int]], new_tokens: int, end: int) -> list[list[int]]:
    """The greedy continuation of each prompt, at most `new_tokens` ids, up to and without `end`."""
    found = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(new_tokens):
            states = reader.states(torch.tensor([ids], device=reader.device))
            token = int(reader.logits(states[:, -1]).argmax())
            if token == end:
                break
            ids.append(token)
        found.append(ids[len(prompt) :])
    return found
