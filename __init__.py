"""costar: controlled memorization experiments with paired language models.

import costar
suite = costar.open("build/demo")
suite.sql("from dose_response").df()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from .core.api import BuiltSuite, LoadedPair
    from .train.digest import DigestRecorder
    from .train.digest_proof import DigestProof

__all__ = [
    "BuiltSuite",
    "DigestRecorder",
    "LoadedPair",
    "collate_ids",
    "digest_callback",
    "open",
    "torch_dataset",
    "verify_digests",
]


def open(name: str) -> BuiltSuite:
    """A built suite, by its folder (`build/demo`), its suite file, or its name."""
    from .core.api import open_suite

    return open_suite(name)


def torch_dataset(name: str, arm: str, draw: int = 0) -> Any:
    """What an arm's runs read, in training order, as a PyTorch dataset."""
    from .core.api import torch_dataset as make

    return make(name, arm, draw)


def collate_ids(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """A batch of rows [L + 1] of `torch_dataset`, as causal models of transformers take it."""
    from .train.callback import collate_ids as collate

    return collate(rows)


def digest_callback(path: str | Path, arm: str, draw: int = 0) -> Any:
    """A callback for `transformers.Trainer` that records what the model is really fed; `DigestRecorder` is for other loops."""
    from .train.callback import trainer_callback

    return trainer_callback(path, arm=arm, draw=draw)


def verify_digests(name: str, path: str | Path) -> DigestProof:
    """Hold what a trainer recorded against a built suite: `.agreed` of `.steps`, and `.problems`, empty where it agrees."""
    from .core.api import open_suite
    from .train.digest_proof import verify_digests as verify

    built = open_suite(name)
    return verify(built.suite, built.workspace, path, lambda share, remark: None)


def __getattr__(name: str) -> Any:
    if name == "DigestRecorder":
        from .train.digest import DigestRecorder

        return DigestRecorder
    if name in ("BuiltSuite", "LoadedPair"):
        from .core import api

        return getattr(api, name)
    raise AttributeError(name)
