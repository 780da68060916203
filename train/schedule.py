"""Learning rates as pure functions of the step: nothing is carried, so a branch and a resume see the same rates."""

from __future__ import annotations

import math

from ..core.design import TrainDesign


def lr_at(design: TrainDesign, step: int) -> float:
    """The rate of update `step` (from 0) of a run planned for `design.steps` steps.

    Linear warm-up, then constant, or a cosine from `lr` to `lr_end` over the steps that remain.
    """
    if step < design.warmup:
        return design.lr * (step + 1) / design.warmup
    if design.schedule == "constant":
        return design.lr
    share = (step - design.warmup) / max(design.steps - design.warmup, 1)
    return design.lr_end + (design.lr - design.lr_end) * 0.5 * (1 + math.cos(math.pi * share))
