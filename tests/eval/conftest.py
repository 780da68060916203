"""What tests of measuring share."""

from __future__ import annotations

import pytest
from costar.corpus.tokenizer import Tokenizer

from .subjects import small_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))
