"""Every checkpoint of a run loads in transformers, with the logits that it has here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import costar
import pytest
import torch
from costar.core.errors import CostarError
from costar.core.machine import Layout
from costar.core.models import ModelShape, parameter_shapes
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.release.export import write_export
from costar.release.forms.hf import export_checkpoint
from costar.train.checkpoint import Stored, model_state
from costar.train.config import read_config
from costar.train.engine import Engine
from costar.train.export import _write_weights, export_hf, export_path, hf_config
from costar.train.imports import INDEX, StartWeights, read_shape
from costar.train.init import init_weights
from costar.train.model import Llama
from costar.train.saving import Saver
from costar.train.world import World
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tests.train.test_engine import design

SHAPES = [
    ModelShape(layers=2, hidden=64, heads=4, kv_heads=4, ffn=96, vocab_size=384, tied=True),
    ModelShape(layers=2, hidden=96, heads=6, kv_heads=2, ffn=128, vocab_size=384, tied=False, rope_theta=5e5),
]


def saved_model(folder: Path, shape: ModelShape) -> tuple[Llama, Stored]:
    """A model of random weights, and its checkpoint."""
    engine = Engine(shape, design(), Layout(), World())
    init_weights(engine.model, 1, 0)
    saver = Saver(Workspace(folder), "standard.nano.d0", engine, kept=(0,), background=False)
    saver.save(0, bytes(16), "")
    return engine.model, Stored(Workspace(folder).checkpoint("standard.nano.d0", 0))


@pytest.mark.parametrize("shape", SHAPES, ids=["tied", "grouped"])
@pytest.mark.parametrize("largest", [10**9, 60_000])
def test_an_export_in_one_file_or_several_has_the_weights_and_the_logits(
    shape: ModelShape, largest: int, tmp_path: Path
) -> None:
    model, stored = saved_model(tmp_path, shape)
    folder = tmp_path / "export"
    _write_weights(folder, stored, shape, largest)
    (folder / "config.json").write_text(json.dumps(hf_config(shape, 128, 0)))
    files = sorted(folder.glob("*.safetensors"))
    assert (len(files) > 1) == (folder / INDEX).is_file() == (largest == 60_000)
    table = 4 * shape.vocab_size * shape.hidden
    assert all(path.stat().st_size < max(largest, table) + 4096 for path in files)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, theirs.get_parameter(name)), name
    ids = torch.randint(0, 384, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)
    assert read_shape(folder) == shape
    assert {name: StartWeights(folder).shape(name) for name in StartWeights(folder).names()} == parameter_shapes(shape)


def test_the_file_is_the_one_that_safetensors_writes(tmp_path: Path) -> None:
    model, stored = saved_model(tmp_path, SHAPES[1])
    _write_weights(tmp_path / "export", stored, SHAPES[1], 10**9)
    save_file(model_state(model), tmp_path / "theirs.safetensors", {"format": "pt"})
    assert (tmp_path / "export" / "model.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_every_checkpoint_is_a_model_of_the_api_also_an_inherited_one(built_copy: Path) -> None:
    suite, workspace = costar.open(str(built_copy)), Workspace(built_copy)
    for run, step, owner in (("late.nano.d0", 24, "standard.nano.d0"), ("late.nano.d0", None, "late.nano.d0")):
        model = suite.model(run, step)
        stored = Stored(workspace.checkpoint(owner, step or 96))
        for name in stored.names():
            assert torch.equal(model.get_parameter(name), stored.whole(name)), (run, step, name)
        assert (export_path(workspace, run, step or 96) / "stage.json").is_file()
    with pytest.raises(CostarError, match="24, 48, 72, 96"):
        suite.model("late.nano.d0", 17)
    with pytest.raises(CostarError, match="no such run"):
        suite.model("later.nano.d0")


def test_a_folder_that_cannot_be_written_is_named(built_copy: Path) -> None:
    shutil.rmtree(built_copy / "runs" / "late.nano.d0" / "hf")
    (built_copy / "runs" / "late.nano.d0").chmod(0o555)
    try:
        (built_copy / "runs" / "late.nano.d0" / "probe").touch()
        pytest.skip("this user may write everywhere")
    except PermissionError:
        with pytest.raises(CostarError, match="not exported yet"):
            export_checkpoint(Workspace(built_copy), "late.nano.d0", 96)
    finally:
        (built_copy / "runs" / "late.nano.d0").chmod(0o755)


def test_the_release_verb_exports_an_arms_models_and_refuses_what_another_form_has(built_copy: Path) -> None:
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    none: dict[str, Any] = {}
    assert write_export(suite, workspace, "hf") == [export_path(workspace, "perturbed.nano.d0", 96)]
    several = replace(suite, release=replace(suite.release, arms=("perturbed", "early")))
    with pytest.raises(CostarError, match="add --arm"):
        write_export(several, workspace, "hf")
    (folder,) = write_export(suite, workspace, "hf", arm="early", **none | {"model": "nano", "step": 48})
    assert folder == export_path(workspace, "early.nano.d0", 48)
    AutoModelForCausalLM.from_pretrained(folder)
    for form, arm, changed, message in (
        ("megatrn", "early", {}, "did you mean 'megatron'"),
        ("hf", "eraly", {}, "did you mean 'early'"),
        ("hf", "early", {"parts": 3}, "--export megatron, or no --parts"),
        ("megatron", "early", {"step": 3}, "--export hf, or no --step"),
        ("hf", "early", {"model": "8b"}, "one of nano"),
        ("hf", "early", {"draw": 1}, "0 to 0"),
        ("hf", "early", {"step": 5}, "24, 48, 72, 96"),
    ):
        with pytest.raises(CostarError, match=message):
            write_export(suite, workspace, form, arm=arm, **none | changed)


def test_ids_without_a_token_are_never_generated(built_copy: Path) -> None:
    """A model whose padding would always win says a token of the tokenizer, in an export as in the ledger."""
    from costar.eval.reader import OwnReader

    workspace = Workspace(built_copy)
    config = replace(read_config(workspace, "standard.nano.d0"), vocabulary=500)
    shutil.rmtree(export_path(workspace, config.run, 96))
    folder = export_hf(workspace, config, workspace.checkpoint(config.run, 96), 96)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[0, -1]
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.lm_head.weight[505] = hidden * 100
        assert model(ids).logits[0, -1].argmax() == 505
    said = model.generate(ids, max_new_tokens=1, attention_mask=torch.ones_like(ids))[0, -1]
    assert said < 500
    ours = Llama(config.shape)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(StartWeights(folder).rows(name, 0, len(parameter)))
        reader = OwnReader(ours, vocab_size=500, longest=128, eos=0)
        torch.testing.assert_close(reader.logits(reader.states(ids)), ours(ids)[..., :500])
