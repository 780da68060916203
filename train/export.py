"""Hugging Face exports: `config.json`, `model.safetensors`, the tokenizer, loadable by `transformers` as they are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..core.design import RunName, Suite
from ..core.errors import CostarError
from ..core.models import ModelShape
from ..core.workspace import Workspace, finish_step, is_current, read_marker, start_step, write_json
from .checkpoint import check_checkpoint, load_checkpoint, model_state, save_tensors
from .config import RunConfig, read_config
from .model import Llama


def hf_config(shape: ModelShape, sequence_length: int, eos_id: int) -> dict[str, Any]:
    """The model's `config.json`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": sequence_length,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        "dtype": "float32",
    }


def export_path(workspace: Workspace, run: str, step: int) -> Path:
    return workspace.run(run) / "hf" / f"step-{step:06d}"


def export_hf(workspace: Workspace, config: RunConfig, checkpoint: Path, step: int) -> Path:
    """Export a checkpoint of a run; the folder, which is left alone when it is current."""
    saved = check_checkpoint(checkpoint)
    folder = export_path(workspace, config.run, step)
    if is_current(folder, saved.state_sha256):
        return folder
    start_step(folder)
    model = Llama(config.shape)
    load_checkpoint(checkpoint, model, None)
    save_tensors(folder / "model.safetensors", model_state(model), {"format": "pt"})
    write_json(folder / "config.json", hf_config(config.shape, config.sequence_length, config.eos_id))
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": config.eos_id,
            "eos_token_id": config.eos_id,
            "pad_token_id": config.eos_id,
            "do_sample": False,
        },
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": config.eos,
            "eos_token": config.eos,
            "model_max_length": config.sequence_length,
            "clean_up_tokenization_spaces": False,
        },
    )
    shutil.copyfile(workspace.corpus / "tokenizer.json", folder / "tokenizer.json")
    finish_step(
        folder, saved.state_sha256, [path for path in folder.iterdir() if not path.name.startswith(("stage", "."))]
    )
    return folder


def export_pair(suite: Suite, workspace: Workspace, run: str) -> tuple[Path, Path]:
    """The exports of a treated run and of its control at their last step.

    Raises:
        CostarError: the run has no control, or one of the two is not finished.
    """
    name = RunName.parse(run)
    control = suite.arms[name.arm].control
    if control is None:
        treated = [arm.name for arm in suite.arms.values() if arm.control]
        raise CostarError(
            f"run {run}", found="a run without control", expected=f"an arm of {', '.join(treated)}", mend="name one"
        )
    found = []
    for each in (run, str(RunName(arm=control, model=name.model, draw=name.draw))):
        config = read_config(workspace, each)
        path = export_path(workspace, each, config.train.steps)
        if read_marker(path) is None:
            raise CostarError(
                f"run {each}", found="no finished export", expected="a finished run", mend="run `costar train`"
            )
        found.append(path)
    return found[0], found[1]
