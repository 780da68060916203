"""Learning rates as pure functions of the step: nothing is carried, so a branch and a resume see the same rates."""

from __future__ import annotations

import math

from .design import TrainDesign

RATE_KEYS = ("steps", "lr", "lr_end", "schedule", "warmup", "decay")
KEPT_KEYS = ("every", "also")


def lr_at(design: TrainDesign, step: int) -> float:
    """The rate of update `step` (from 0) of a run planned for `design.steps` steps.

    Linear warm-up to `lr`, then by schedule. "constant": `lr`. "cosine": from `lr` towards `lr_end` over the steps that
    remain. "wsd" (warm-up, stable, decay: Hägele et al. 2024): `lr`, and lower by equal parts in each of the last `decay`
    steps, so that `lr_end` would come one step after the last.
    """
    if step < design.warmup:
        return design.lr * (step + 1) / design.warmup
    if step < _level_until(design):
        return design.lr
    if design.schedule == "wsd":
        share = (step - _level_until(design) + 1) / (design.decay + 1)
        return design.lr_end + (design.lr - design.lr_end) * (1 - share)
    share = (step - design.warmup) / max(design.steps - design.warmup, 1)
    return design.lr_end + (design.lr - design.lr_end) * 0.5 * (1 + math.cos(math.pi * share))


def _level_until(design: TrainDesign) -> int:
    """The step before which rates depend on `lr` and `warmup` alone."""
    return {"constant": design.steps, "wsd": design.steps - design.decay}.get(design.schedule, design.warmup)


def training_besides_rates(design: TrainDesign) -> dict[str, object]:
    """What two runs must train with alike before they can share steps: all but the rates and what is kept."""
    return {key: value for key, value in vars(design).items() if key not in (*RATE_KEYS, *KEPT_KEYS)}


def shared_rates(a: TrainDesign, b: TrainDesign) -> int:
    """The first step at which the rates of two designs differ; the steps of the shorter one if there is none."""
    least = min(a.steps, b.steps)
    if all(getattr(a, key) == getattr(b, key) for key in RATE_KEYS):
        return least
    alike = (a.lr, a.warmup) == (b.lr, b.warmup)
    first = min(_level_until(a), _level_until(b), least) if alike else 0
    return next((step for step in range(first, least) if lr_at(a, step) != lr_at(b, step)), least)
