"""Learning rates for training; planning needs them too, so they live in `core/schedule.py`."""

from __future__ import annotations

from ..core.schedule import lr_at

__all__ = ["lr_at"]
