"""Loading what was packed as a user would, before it is called done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import CostarError

NEAR = 1e-3  # logits of a text alone and beside a longer one


def try_out(folder: Path, runs: Sequence[str]) -> None:
    """Load every model, its tokenizer, and every configuration of the data, without network.

    Raises:
        CostarError: logits that are not finite or change with padding, or a pad token that is another token's.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from datasets import get_dataset_config_names, load_dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging

    logging.disable_progress_bar()
    disable_progress_bar()
    for run in runs:
        _try_model(folder / "models" / run)
    cache = folder / ".cache"
    try:
        for name in get_dataset_config_names(str(folder / "data")):
            load_dataset(str(folder / "data"), name, split="train", cache_dir=str(cache))
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _try_model(path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    model: Any = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise CostarError(
            str(path),
            found="no pad token but EOS: every id of the model is that of a token which texts have",
            expected="an id for padding",
            mend="take a tokenizer whose vocabulary is no multiple of 128, or that has a pad token",
        )
    texts = [f"{tokenizer.eos_token}the", f"{tokenizer.eos_token}a longer text beside it"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        together = model(**batch).logits
        for row, text in enumerate(texts):
            alone = model(**tokenizer(text, return_tensors="pt")).logits[0]
            places = batch.attention_mask[row].bool()
            if not bool(torch.isfinite(alone).all()) or bool(((together[row][places] - alone).abs() > NEAR).any()):
                raise CostarError(
                    str(path),
                    found="logits that are not finite, or that change with padding",
                    expected="a usable model",
                    mend="train it again",
                )
