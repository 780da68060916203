from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from costar.core.design import TrainDesign
from costar.core.models import ModelShape, padded, parameter_shapes, presets
from costar.core.schedule import lr_at
from costar.train.export import hf_config
from costar.train.init import init_weights
from costar.train.model import Llama
from hypothesis import given
from hypothesis import strategies as st

from tests.designs import train_design

SHAPES = [
    ModelShape(layers=2, hidden=64, heads=4, kv_heads=4, ffn=96, vocab_size=300, tied=True),
    ModelShape(layers=3, hidden=96, heads=6, kv_heads=2, ffn=128, vocab_size=300, tied=False),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_those_of_transformers(shape: ModelShape) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = Llama(shape)
    init_weights(model, 1, 0)
    theirs = LlamaForCausalLM(LlamaConfig(**hf_config(shape, 128, 0))).eval()
    theirs.load_state_dict(model.state_dict())
    ids = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_counts_are_those_of_the_built_model(shape: ModelShape) -> None:
    assert sum(p.numel() for p in Llama(shape).parameters()) == shape.parameters


def test_hubble_shapes_have_the_published_sizes() -> None:
    sizes = {name: preset.shape(50_304).parameters / 1e9 for name, preset in presets().items()}
    assert sizes["1b"] == pytest.approx(1.179, abs=0.003)
    assert sizes["8b"] == pytest.approx(8.26, abs=0.03)
    assert sizes["1b-shallow"] == pytest.approx(1.25, abs=0.01)
    assert sizes["1b-deep"] == pytest.approx(1.25, abs=0.01)


def test_hubble_shapes_are_those_of_its_published_configurations() -> None:
    """The comments there count 1,252,157,760 and 1,249,789,440, with biases of the feed-forward (9 · hidden a block)."""
    for name, published in (("1b-shallow", 1_252_157_760), ("1b-deep", 1_249_789_440)):
        shape = presets()[name].shape(50_280)
        assert shape.parameters + 9 * shape.hidden * shape.layers == published
        assert (shape.heads, shape.kv_heads, shape.tied, shape.vocab_size) == (32, 8, False, 50_304)


@pytest.mark.parametrize("name", list(presets()))
def test_every_preset_is_a_model_of_transformers_parameter_by_parameter(name: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = presets()[name].shape(50_280)
    with torch.device("meta"):
        models = Llama(shape), LlamaForCausalLM(LlamaConfig(**hf_config(shape, 2048, 0)))
    ours, theirs = ({n: tuple(p.shape) for n, p in model.named_parameters()} for model in models)
    assert ours == theirs == parameter_shapes(shape)
    assert sum(math.prod(size) for size in ours.values()) == shape.parameters


def test_vocabularies_are_padded_to_whole_tiles_and_no_further() -> None:
    assert [padded(size) for size in (1, 128, 129, 1024, 50_280, 50_304)] == [128, 128, 256, 1024, 50_304, 50_304]
    assert all(p.hidden % p.heads == 0 and p.ffn % 64 == 0 for p in presets().values())


def test_flops_per_token_follow_the_contract() -> None:
    shape = presets()["1b"].shape(50_304)
    assert shape.flops_per_token(2048) == pytest.approx(7.27e9, rel=0.01)


def test_initialization_depends_on_seed_draw_and_name_only() -> None:
    first, second, other = (Llama(SHAPES[0]) for _ in range(3))
    init_weights(first, 5, 0)
    torch.rand(3)
    init_weights(second, 5, 0)
    init_weights(other, 5, 1)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters()):
        assert torch.equal(a, b), name
        assert a.dim() == 1 or not torch.equal(a, c), name


def test_positions_and_mask_reproduce_the_causal_default() -> None:
    model = Llama(SHAPES[1])
    init_weights(model, 1, 0)
    ids = torch.arange(20)[None]
    mask = torch.ones(20, 20, dtype=torch.bool).tril()
    with torch.no_grad():
        torch.testing.assert_close(model(ids), model(ids, torch.arange(20), mask), rtol=1e-4, atol=1e-5)


def design(schedule: str, steps: int, warmup: int) -> TrainDesign:
    return train_design(steps=steps, lr=1e-2, lr_end=1e-3, schedule=schedule, warmup=warmup, every=5)


@given(st.sampled_from(["constant", "cosine"]), st.integers(1, 200), st.integers(0, 50))
def test_rates_are_pure_positive_and_bounded(schedule: str, steps: int, warmup: int) -> None:
    chosen = design(schedule, steps, warmup)
    rates = [lr_at(chosen, step) for step in range(steps)]
    assert rates == [lr_at(chosen, step) for step in range(steps)]
    assert all(0 < rate <= 1e-2 + 1e-12 for rate in rates)


def test_cosine_goes_from_lr_to_lr_end_and_constant_stays() -> None:
    cosine = design("cosine", 100, 10)
    assert lr_at(cosine, 0) == pytest.approx(1e-3)
    assert lr_at(cosine, 10) == pytest.approx(1e-2)
    assert lr_at(cosine, 55) == pytest.approx(1e-3 + 9e-3 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert lr_at(cosine, 99) == pytest.approx(1e-3, abs=1e-5)
    assert {lr_at(design("constant", 100, 10), step) for step in range(10, 100)} == {1e-2}


def test_an_export_loads_in_transformers_with_equal_logits(built: Path) -> None:
    from costar.core.workspace import Workspace
    from costar.train.checkpoint import load_checkpoint
    from costar.train.config import read_config
    from costar.train.export import export_path
    from transformers import AutoModelForCausalLM, AutoTokenizer

    workspace = Workspace(built)
    config = read_config(workspace, "perturbed.nano.d0")
    model = Llama(config.shape)
    load_checkpoint(workspace.checkpoint(config.run, 96), model, None)
    path = export_path(workspace, config.run, 96)
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    ids = tokenizer("The quick brown fox is not in this corpus.", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
