"""Training designs and configurations for tests that are about something else: name what matters, the rest is filled in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from costar.core.design import TrainDesign
from costar.core.models import presets
from costar.train.config import RunConfig


def train_design(**changes: Any) -> TrainDesign:
    """100 steps of 8 sequences, AdamW at a constant rate."""
    design = TrainDesign(
        steps=100,
        batch=8,
        optimizer="adamw",
        lr=1e-3,
        lr_end=0.0,
        schedule="constant",
        warmup=0,
        decay=0,
        weight_decay=0.1,
        every=50,
        also=(),
    )
    return replace(design, **changes)


def run_config(run: str, **changes: Any) -> RunConfig:
    """A run of its own, without a place in a tree and without data."""
    config = RunConfig(
        run=run,
        arm=run,
        model="tiny",
        draw=0,
        seed=1,
        shape=presets()["tiny"].shape(512),
        train=train_design(),
        sequence_length=64,
        eos_id=0,
        eos="",
        tokens_sha256="",
        tokenizer_sha256="",
        overlay_sha256="",
        checkpoints=(),
        branches=(),
        parent_run=None,
        branch_step=0,
        spec={},
        vocabulary=512,
    )
    return replace(config, **changes)
