"""Checkpoints in the layout of Hugging Face: read exactly, and refused before any training where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from costar.core.errors import CostarError
from costar.core.models import ModelPreset, ModelShape, parameter_shapes
from costar.train.export import hf_config
from costar.train.imports import (
    INDEX,
    StartWeights,
    check_checkpoint_folder,
    check_vocabulary,
    find_checkpoint,
    read_shape,
)
from costar.train.model import Llama
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

GROUPED = ModelShape(layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, vocab_size=384, tied=False, rope_theta=5e5)
TIED = ModelShape(layers=1, hidden=64, heads=4, kv_heads=4, ffn=96, vocab_size=384, tied=True, norm_eps=1e-6)
PRESET = ModelPreset(layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, tied=True)


def theirs(shape: ModelShape) -> Any:
    torch.manual_seed(3)
    return LlamaForCausalLM(LlamaConfig(**hf_config(shape, 128, 0))).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint that transformers saved in several files."""
    theirs(GROUPED).save_pretrained(tmp_path / "model", max_shard_size="100KB")
    assert (tmp_path / "model" / INDEX).is_file()
    return tmp_path / "model"


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def check(folder: Path, preset: ModelPreset = PRESET) -> ModelShape:
    return check_checkpoint_folder(folder, preset, "nano", "[arm.x] init")[0]


def refusal(folder: Path) -> CostarError:
    with pytest.raises(CostarError) as error:
        check(folder)
    assert error.value.exit_code == 2
    assert error.value.mend
    return error.value


@pytest.mark.parametrize("shape", [GROUPED, TIED], ids=["grouped", "tied"])
def test_a_model_of_transformers_has_the_same_logits_here(shape: ModelShape, tmp_path: Path) -> None:
    model = theirs(shape)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert read_shape(tmp_path) == shape
    weights, ours = StartWeights(tmp_path), Llama(shape)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            half = len(parameter) // 2
            parameter[:half] = weights.rows(name, 0, half)
            parameter[half:] = weights.rows(name, half, len(parameter))
            assert torch.equal(parameter, model.get_parameter(name)), name
        ids = torch.randint(0, 384, (2, 40), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(ours(ids), model(ids).logits, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    tensor = torch.randn(7, 5).bfloat16()
    save_file({"a": tensor}, tmp_path / "model.safetensors")
    assert torch.equal(StartWeights(tmp_path).rows("a", 2, 6), tensor[2:6].float())


def test_the_hash_is_of_the_tensors_and_not_of_their_files(folder: Path, tmp_path: Path) -> None:
    theirs(GROUPED).save_pretrained(tmp_path / "one")
    one, several = StartWeights(tmp_path / "one"), StartWeights(folder)
    assert one.sha256() == several.sha256()
    tensors = load_file(tmp_path / "one" / "model.safetensors")
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, tmp_path / "one" / "model.safetensors")
    assert StartWeights(tmp_path / "one").sha256() != several.sha256()


def test_rotary_base_epsilon_head_and_vocabulary_are_the_checkpoints(folder: Path) -> None:
    assert check(folder) == GROUPED


def test_configurations_of_older_versions_are_read(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    for key in ("rope_parameters", "head_dim", "attention_bias", "mlp_bias"):
        del raw[key]
    (folder / "config.json").write_text(json.dumps(raw | {"rope_theta": 5e5, "rope_scaling": None}))
    assert check(folder) == GROUPED


def test_every_difference_of_shape_is_named(folder: Path) -> None:
    other = ModelPreset(layers=3, hidden=64, heads=4, kv_heads=4, ffn=128)
    with pytest.raises(CostarError) as error:
        check(folder, other)
    assert "layers 2 against 3, kv_heads 2 against 4, ffn 96 against 128" in error.value.found
    assert "[arm.x] init" in error.value.place


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"model_type": "mistral"}, 'model_type "mistral"'),
        ({"attention_bias": True}, "attention_bias True"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"head_dim": 32}, "head_dim 32"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}}, "rope_type llama3"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type linear"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_key_value_heads": 3}, "num_attention_heads % num_key_value_heads 1"),
        ({"hidden_size": "64"}, 'hidden_size = "64"'),
        ({"vocab_size": 0}, "vocab_size = 0"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps = -1.0"),
        ({"vocab_size": 512}, "of shape [384, 64] instead of [512, 64]"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
    ],
)
def test_another_architecture_is_refused(folder: Path, values: dict[str, Any], found: str) -> None:
    edit_config(folder, **values)
    assert found in refusal(folder).found


@pytest.mark.parametrize("text", [None, "", "[]", "{", "\0"])
def test_a_missing_or_damaged_configuration_is_named(folder: Path, text: str | None) -> None:
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    assert "config.json" in refusal(folder).place


def test_a_cut_file_is_named(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    whole = path.read_bytes()
    for size in (0, 7, 8, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert path.name in refusal(folder).place, size
    path.write_bytes(whole + b"\0")
    assert path.name in refusal(folder).place


def test_a_missing_file_is_named(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.unlink()
    assert path.name in refusal(folder).place
    (folder / INDEX).unlink()
    assert "without an index" in refusal(folder).found


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "model.bin"])
def test_an_index_names_safetensors_of_its_own_folder_only(folder: Path, file: str) -> None:
    raw = json.loads((folder / INDEX).read_text())
    raw["weight_map"]["model.norm.weight"] = file
    (folder / INDEX).write_text(json.dumps(raw))
    assert file in refusal(folder).found


def test_pickle_is_refused_even_where_it_is_all_there_is(tmp_path: Path) -> None:
    theirs(GROUPED).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin, which is pickle" in refusal(tmp_path).found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t.pop("model.norm.weight"), "no model.norm.weight"),
        (lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}), "q_proj.bias, which a Llama"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(384, 32)}), "lm_head.weight of shape [384, 32]"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(64, dtype=torch.int8)}), "of type I8"),
    ],
)
def test_tensors_must_be_those_of_the_configuration(tmp_path: Path, change: Any, found: str) -> None:
    theirs(GROUPED).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    assert found in refusal(tmp_path).found


def test_tables_that_older_versions_saved_are_passed_over(tmp_path: Path) -> None:
    theirs(GROUPED).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    save_file(tensors, tmp_path / "model.safetensors")
    assert check(tmp_path) == GROUPED


def test_the_vocabulary_holds_the_tokenizers_and_ids_mean_the_same(folder: Path, tmp_path: Path) -> None:
    def write(path: Path, tokens: dict[str, int]) -> Path:
        path.write_text(json.dumps({"model": {"vocab": tokens}, "added_tokens": [{"id": 2, "content": "<eos>"}]}))
        return path

    ours = write(tmp_path / "tokenizer.json", {"a": 0, "b": 1})
    check_vocabulary(folder, GROUPED, ours, 384, "x")
    with pytest.raises(CostarError, match="a vocabulary of 384"):
        check_vocabulary(folder, GROUPED, ours, 385, "x")
    write(folder / "tokenizer.json", {"a": 0, "b": 1, "c": 3})
    check_vocabulary(folder, GROUPED, ours, 3, "x")
    write(folder / "tokenizer.json", {"a": 1, "b": 0})
    with pytest.raises(CostarError, match="2 tokens have another id"):
        check_vocabulary(folder, GROUPED, ours, 3, "x")


def test_a_checkpoint_is_found_below_the_folders_or_under_its_name_on_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "org" / "name"
    folder.mkdir(parents=True)
    places = [tmp_path / "empty", tmp_path / "data"]
    for init in ("org/name", "hub:org/name", "hub:org/name@main", str(folder)):
        assert find_checkpoint(init, places, "x", fetch=False) == folder
    with pytest.raises(CostarError, match="no such folder"):
        find_checkpoint("org/other", places, "x", fetch=True)
    with pytest.raises(CostarError) as error:
        find_checkpoint("org/other", [tmp_path, tmp_path], "x", fetch=True)
    assert error.value.expected == f"a folder below {tmp_path}, or hub:owner/name"


@pytest.mark.parametrize("init", ["", "hub:", "hub:name", "hub:owner/", "hub:@main"])
def test_an_init_that_names_nothing_is_refused(init: str, tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(CostarError, match="a folder, or hub:owner/name"):
        find_checkpoint(init, [tmp_path], "x", fetch=False)


def test_a_name_on_the_hub_is_fetched_only_when_a_run_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_checkpoint("hub:org/never-there", [tmp_path], "x", fetch=False) is None
    with pytest.raises(CostarError, match="no way to it"):
        find_checkpoint("hub:org/never-there", [tmp_path], "x", fetch=True)
    with pytest.raises(CostarError, match="no way to it"):
        find_checkpoint("hub:a/b/c", [tmp_path], "x", fetch=False)


def test_names_and_sizes_are_those_of_a_checkpoint_of_transformers(folder: Path) -> None:
    weights = StartWeights(folder)
    assert {name: weights.shape(name) for name in weights.names()} == parameter_shapes(GROUPED)
