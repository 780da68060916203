"""Texts that are longer than a model reads at once: scored in windows, and joined again to one sequence of the ledger.

The windows are those of lm-evaluation-harness 0.4.13 (`loglikelihood_rolling`), with L the longest input: the first holds
L tokens of the text, after EOS; each further one the next L, after the last token before them; the last, where fewer than
L are left, reads back as far as L inputs reach. So every token is scored once, most of them with less context than
the text has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ledger import score_requests
from .probes import Request
from .reader import Reader


def windows_of(request: Request, longest: int) -> list[Request]:
    """The request itself where it fits or does not roll, else its windows in the order of the text."""
    count = len(request.ids)
    if not request.rolls or count <= longest:
        return [request]
    found: list[Request] = []
    for first in range(0, count, longest):
        end = min(first + longest, count)
        name = f"{request.rendering}/window={len(found)}"
        before = request.ids[end - longest - 1 : first] if first else ()
        found.append(replace(request, rendering=name, ids=request.ids[first:end], before=before))
    return found


def score_in_windows(
    reader: Reader, requests: Sequence[Request], byte_counts: NDArray[np.int32], longest: int
) -> dict[str, Any]:
    """The columns of `score_requests`, for requests of any length where they roll."""
    parts = [windows_of(request, longest) for request in requests]
    columns = score_requests(reader, [window for part in parts for window in part], byte_counts)
    if all(len(part) == 1 for part in parts):
        return columns
    scored = columns["lengths"]
    firsts = np.concatenate([np.cumsum([0, *(len(window.ids) for window in part[:-1])]) for part in parts])
    columns["position"] = (columns["position"] + np.repeat(firsts, scored)).astype(np.int32)
    bounds = np.cumsum([0, *map(len, parts)])
    columns["lengths"] = np.add.reduceat(scored, bounds[:-1])
    return columns
