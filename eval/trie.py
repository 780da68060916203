"""Log-probabilities of all continuations of a prefix over an alphabet, each shared beginning computed once.

The nodes of the trie stand behind the prefix in one sequence; a node sees the prefix, its ancestors and itself, and has
the position it would have in its own text. The result equals that of scoring every candidate as a text of its own.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .reader import Reader

NODES = 1_200  # inner nodes of one forward pass: four levels of ten symbols


def candidate_logps(reader: Reader, prefix: list[int], symbols: list[int], depth: int) -> NDArray[np.float64]:
    """Log-probability [len(symbols) ** depth] of every string of `depth` symbols after the prefix, in alphabet order."""
    together = _levels_together(len(symbols))
    if depth > together:
        base, levels = len(symbols), depth - together
        heads = candidate_logps(reader, prefix, symbols, levels)
        parts = []
        for number, head in enumerate(heads):
            path = [symbols[number // base**place % base] for place in range(levels - 1, -1, -1)]
            parts.append(head + candidate_logps(reader, [*prefix, *path], symbols, together))
        return np.concatenate(parts)
    base, known = len(symbols), len(prefix)
    sizes = [base**level for level in range(1, depth)]  # inner nodes by level; leaves are outputs only
    count = sum(sizes)
    mask = torch.zeros(known + count, known + count, dtype=torch.bool)
    mask[:known, :known] = torch.ones(known, known, dtype=torch.bool).tril()
    mask[known:, :known] = True
    ids, positions = list(prefix), list(range(known))
    first = known
    for level, size in enumerate(sizes):
        nodes = torch.arange(size)
        ids += [symbols[node % base] for node in range(size)]
        positions += [known + level] * size
        rows = first + nodes
        mask[rows, rows] = True
        if level:
            parents = first - sizes[level - 1] + nodes // base
            mask[rows] |= mask[parents]
        first += size
    device = reader.device
    with torch.no_grad():
        given = (torch.tensor([ids], device=device), torch.tensor(positions, device=device), mask.to(device))
        logits = reader.logits(reader.states(*given)[0, known - 1 :])
        logps = torch.log_softmax(logits, dim=-1)[:, symbols].double().cpu().numpy()
    total = logps[0]
    at = 1
    for size in sizes:
        total = (total[:, None] + logps[at : at + size]).reshape(-1)
        at += size
    return np.asarray(total)


def _levels_together(base: int) -> int:
    """The depth of a trie whose inner nodes fit one forward pass."""
    depth, nodes = 1, base
    while nodes <= NODES and depth < 12:
        depth += 1
        nodes += base**depth
    return depth


def sequence_logps(reader: Reader, prefix: list[int], rows: torch.Tensor, chunk: int = 256) -> NDArray[np.float64]:
    """Log-probability [n] of each continuation [n, depth] of a prefix, each scored as a text of its own."""
    device = reader.device
    found = []
    for part in torch.split(rows, chunk):
        ids = torch.cat([torch.tensor(prefix).expand(len(part), -1), part], dim=1).to(device)
        with torch.no_grad():
            states = reader.states(ids[:, :-1])[:, len(prefix) - 1 :]
            logps = torch.log_softmax(reader.logits(states), dim=-1)
        own = logps.gather(2, ids[:, len(prefix) :, None]).squeeze(2)
        found.append(own.double().sum(1).cpu().numpy())
    return np.concatenate(found)
