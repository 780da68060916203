"""costar: controlled memorization experiments with paired language models.

import costar
suite = costar.open("build/demo")
suite.sql("from dose_response").df()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.api import BuiltSuite, LoadedPair

__all__ = ["BuiltSuite", "LoadedPair", "open", "torch_dataset"]


def open(name: str) -> BuiltSuite:
    """A built suite, by its folder (`build/demo`), its suite file, or its name."""
    from .core.api import open_suite

    return open_suite(name)


def torch_dataset(name: str, arm: str, draw: int = 0) -> Any:
    """What an arm's runs read, in training order, as a PyTorch dataset."""
    from .core.api import torch_dataset as make

    return make(name, arm, draw)


def __getattr__(name: str) -> Any:
    if name in ("BuiltSuite", "LoadedPair"):
        from .core import api

        return getattr(api, name)
    raise AttributeError(name)
