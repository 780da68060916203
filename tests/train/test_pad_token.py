from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from costar.core.workspace import Workspace
from costar.corpus.tokenizer import Tokenizer
from costar.train.config import read_config
from costar.train.export import export_path
from costar.train.imports import check_vocabulary
from costar.train.pad_token import PadToken, write_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

EOS = "<|endoftext|>"
RUN = "perturbed.nano.d0"
ODD = [
    "ÿ À Á õ þ and <0xFF>",
    "naïve Straße 🙂 漢字 \u00ff\u00ff",
    "a\n\n  b\t 0123456789",
    "".join(map(chr, range(1, 0x250))),
]


def corpus_tokenizer(built: Path) -> Path:
    return built / "corpus" / "tokenizer.json"


def exported(path: Path, pad: PadToken) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=EOS, pad_token=pad.token)


def texts_of(built: Path) -> list[str]:
    documents = pq.read_table(built / "corpus" / "documents.parquet", columns=["text"])
    return [*documents.column("text").to_pylist()[:60], *ODD]


@pytest.mark.parametrize("rows", [512, 640])
def test_every_text_has_the_ids_that_it_has_in_the_corpus(built: Path, tmp_path: Path, rows: int) -> None:
    """With no free id the pad token is that of a byte that no text has; with one it is the first."""
    source, target = corpus_tokenizer(built), tmp_path / "tokenizer.json"
    pad = write_tokenizer(source, target, eos=EOS, eos_id=0, vocabulary=512, rows=rows)
    ours, theirs = Tokenizer(source, EOS), exported(target, pad)
    assert theirs.pad_token_id == pad.id != ours.eos_id
    assert pad.id == (512 if rows > 512 else ours.inner.token_to_id("ÿ"))
    for text in texts_of(built):
        ids = theirs(text).input_ids
        assert ids == ours.encode(text)
        assert pad.id not in ids
    assert theirs(pad.token).input_ids == [pad.id]


def test_a_pad_token_that_a_tokenizer_brings_is_kept(built: Path, tmp_path: Path) -> None:
    raw = json.loads(corpus_tokenizer(built).read_text())
    own = {**raw["added_tokens"][0], "id": 512, "content": "<|padding|>"}
    (tmp_path / "own.json").write_text(json.dumps({**raw, "added_tokens": [*raw["added_tokens"], own]}))
    target = tmp_path / "tokenizer.json"
    pad = write_tokenizer(tmp_path / "own.json", target, eos=EOS, eos_id=0, vocabulary=513, rows=640)
    assert pad == PadToken(token="<|padding|>", id=512)
    assert exported(target, pad).pad_token_id == 512


def test_a_name_that_the_vocabulary_has_is_not_taken_twice(built: Path, tmp_path: Path) -> None:
    raw = json.loads(corpus_tokenizer(built).read_text())
    raw["model"]["vocab"]["<|pad|>"] = 512
    (tmp_path / "own.json").write_text(json.dumps(raw))
    pad = write_tokenizer(
        tmp_path / "own.json", tmp_path / "tokenizer.json", eos=EOS, eos_id=0, vocabulary=513, rows=640
    )
    assert pad == PadToken(token="<|padding|>", id=513)


def test_a_vocabulary_that_falls_back_to_bytes_pads_with_one_that_no_text_has(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as HfTokenizer
    from tokenizers import decoders, models

    vocab = {"<unk>": 0, EOS: 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)} | {"a": 258, "b": 259}
    inner = HfTokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    inner.decoder = decoders.ByteFallback()
    inner.add_special_tokens([EOS])
    inner.save(str(tmp_path / "own.json"))
    target = tmp_path / "tokenizer.json"
    pad = write_tokenizer(tmp_path / "own.json", target, eos=EOS, eos_id=1, vocabulary=260, rows=260)
    assert pad == PadToken(token="<|pad|>", id=0xFF + 2)
    theirs = exported(target, pad)
    inner.encode_special_tokens = True
    for text in ("ab", "a é 漢 🙂", "ÿþ"):
        assert theirs(text).input_ids == inner.encode(text, add_special_tokens=False).ids
        assert pad.id not in theirs(text).input_ids


@pytest.mark.parametrize("model", ["Unigram", "WordLevel"])
def test_a_vocabulary_that_leaves_no_id_pads_with_eos(tmp_path: Path, model: str) -> None:
    vocab: Any = [["a", 0.0], [EOS, 0.0]] if model == "Unigram" else {"a": 0, EOS: 1}
    added = {"id": 1, "content": EOS, "special": True}
    (tmp_path / "own.json").write_text(json.dumps({"added_tokens": [added], "model": {"type": model, "vocab": vocab}}))
    target = tmp_path / "tokenizer.json"
    pad = write_tokenizer(tmp_path / "own.json", target, eos=EOS, eos_id=1, vocabulary=2, rows=2)
    assert pad == PadToken(token=EOS, id=1)
    assert target.read_bytes() == (tmp_path / "own.json").read_bytes()


def test_padding_changes_no_logits(built: Path) -> None:
    path = built / "release" / "models" / RUN
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id
    texts = [EOS + text[:200] for text in texts_of(built)[:6]] + [f"{EOS}short"]
    for side in ("right", "left"):
        batch = tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")
        positions = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            together = model(**batch, position_ids=positions).logits
            for row, text in enumerate(texts):
                alone = model(**tokenizer(text, return_tensors="pt")).logits[0]
                torch.testing.assert_close(together[row][batch.attention_mask[row].bool()], alone, rtol=1e-4, atol=1e-4)


def test_an_export_can_be_started_from_although_it_names_a_byte_anew(built: Path) -> None:
    workspace = Workspace(built)
    config = read_config(workspace, RUN)
    folder = export_path(workspace, RUN, config.train.steps)
    check_vocabulary(folder, config.shape, corpus_tokenizer(built), config.vocabulary, "init")


def test_a_pad_token_behind_all_others_is_no_prediction_of_a_model_that_is_measured(
    built: Path, tmp_path: Path
) -> None:
    """So that an export with a free id has the numbers that its run has in the ledger."""
    from costar.eval.external import ExternalModel
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "model"
    config = LlamaConfig(
        vocab_size=640,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    source = corpus_tokenizer(built)
    pad = write_tokenizer(source, folder / "tokenizer.json", eos=EOS, eos_id=0, vocabulary=512, rows=640)
    exported(folder / "tokenizer.json", pad).save_pretrained(folder)
    assert ExternalModel(folder, "model", "model", tmp_path).reader.vocab_size == 512
