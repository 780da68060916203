"""What of a suite an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An arm of one draw; None where the form is to take its default. `parts` are MiB."""

    arm: str
    draw: int = 0
    model: str | None = None
    step: int | None = None
    parts: int | None = None
