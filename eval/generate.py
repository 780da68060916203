"""Greedy continuations of prompts by costar's own models: many prompts side by side, each token read once.

Shapes in comments: B prompts, T positions, D hidden size, H query heads, K key/value heads, C head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..train.attention import rotate
from ..train.model import Attention, Block, Llama, as_tensor, rotary_tables

BATCH = 8_192  # tokens that are remembered at a time, with padding


@torch.no_grad()
def generate(
    model: Llama, vocab_size: int, prompts: Sequence[Sequence[int]], new_tokens: int, end: int
) -> list[list[int] | None]:
    """The greedy continuation of each prompt, at most `new_tokens` ids below `vocab_size`, up to and without `end`; None
    where logits are no numbers."""
    order = sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), tuple(prompts[number])))
    found: list[list[int] | None] = [[] for _ in prompts]
    for chosen in _batches(order, prompts, new_tokens):
        made = _generate_batch(model, vocab_size, [prompts[number] for number in chosen], new_tokens, end)
        for number, ids in zip(chosen, made, strict=True):
            found[number] = ids
    return found


def _batches(order: Sequence[int], prompts: Sequence[Sequence[int]], new_tokens: int) -> Iterator[list[int]]:
    """Prompts of like length, so many as are remembered at a time."""
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) + 1) * (len(prompts[number]) + new_tokens) > BATCH:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _generate_batch(
    model: Llama, vocab_size: int, prompts: Sequence[Sequence[int]], new_tokens: int, end: int
) -> list[list[int] | None]:
    """Shorter prompts are padded on the left; a prompt whose continuation has ended leaves the batch."""
    device, head = model.lm_head.weight.device, model.lm_head.weight[:vocab_size]
    width = max(map(len, prompts))
    padding = torch.tensor([width - len(prompt) for prompt in prompts])
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    memory = Memory(model, len(prompts), width + new_tokens)
    alive, found = list(range(len(prompts))), [list[int]() for _ in prompts]
    lost: set[int] = set()
    for _ in range(new_tokens):
        states = memory.read(ids.to(device), padding.to(device))
        logits = (states @ head.T).float()
        chosen, real = logits.argmax(1).cpu(), logits.isfinite().all(1).cpu()
        for number, token in zip(alive, chosen.tolist(), strict=True):
            found[number].append(token)
        lost |= {alive[place] for place in (~real).nonzero()[:, 0].tolist()}
        going = ((chosen != end) & real).nonzero()[:, 0]
        if len(going) < len(alive):
            alive = [alive[place] for place in going.tolist()]
            memory.keep(going.to(device))
            padding, chosen = padding[going], chosen[going]
            if not alive:
                break
        ids = chosen[:, None]
    ended = [ids[:-1] if ids and ids[-1] == end else ids for ids in found]
    return [None if number in lost else ids for number, ids in enumerate(ended)]


class Memory:
    """The keys and values [B, K, T, C] of what each layer has read, for up to `longest` positions."""

    def __init__(self, model: Llama, rows: int, longest: int):
        shape, weight = model.shape, model.lm_head.weight
        size = (rows, shape.kv_heads, longest, shape.head_size)
        self.model, self.length = model, 0
        self.layers = [(weight.new_zeros(size), weight.new_zeros(size)) for _ in range(shape.layers)]

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        self.layers = [(keys[rows], values[rows]) for keys, values in self.layers]

    def read(self, ids: Tensor, padding: Tensor) -> Tensor:
        """What the head reads behind the last of the further ids [B, T]: [B, D]. The first `padding` [B] ids are none."""
        model, first, last = self.model, self.length, self.length + ids.shape[1]
        places = torch.arange(last, device=ids.device)
        positions = (places[first:] - padding[:, None]).clamp(min=0)
        seen = places <= places[first:, None]
        real = places >= padding[:, None, None]
        itself = places == places[first:, None]  # padding sees something: a softmax over nothing is no number
        mask = ((seen & real) | itself)[:, None]
        cos, sin = rotary_tables(model.shape, positions)
        x = model.model.embed_tokens(ids)
        for block, memory in zip(model.model.layers, self.layers, strict=True):
            assert isinstance(block, Block)
            x = x + self._attention(block.self_attn, block.input_layernorm(x), cos, sin, memory, mask)
            x = x + block.mlp(block.post_attention_layernorm(x))
        self.length = last
        return as_tensor(model.model.norm(x[:, -1]))

    def _attention(
        self, attention: Attention, x: Tensor, cos: Tensor, sin: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor
    ) -> Tensor:
        """Attention of the further positions over all that were read; their keys and values are remembered."""
        shape, (keys, values) = self.model.shape, memory
        rows, length, hidden = x.shape
        last = self.length + length
        q = attention.q_proj(x).view(rows, length, shape.heads, shape.head_size).transpose(1, 2)
        k = attention.k_proj(x).view(rows, length, shape.kv_heads, shape.head_size).transpose(1, 2)
        v = attention.v_proj(x).view(rows, length, shape.kv_heads, shape.head_size).transpose(1, 2)
        keys[:, :, self.length : last] = rotate(k, cos, sin)
        values[:, :, self.length : last] = v
        known = keys[:, :, :last], values[:, :, :last]
        grouped = shape.kv_heads != shape.heads
        out = F.scaled_dot_product_attention(rotate(q, cos, sin), *known, attn_mask=mask, enable_gqa=grouped)
        return as_tensor(attention.o_proj(out.transpose(1, 2).reshape(rows, length, hidden)))
