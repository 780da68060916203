"""Hugging Face exports: `config.json`, safetensors, the tokenizer, loadable by `transformers` as they are.

Weights are written in float32, tensor by tensor, in files of at most 5 GB with `model.safetensors.index.json` where one
is not enough. So an export needs the memory of one tensor.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.design import RunName, Suite
from ..core.errors import CostarError
from ..core.hashing import sha256_json
from ..core.models import ModelShape, parameter_shapes
from ..core.workspace import (
    Workspace,
    finish_step,
    is_current,
    read_marker,
    replacing,
    start_step,
    write_json,
)
from .checkpoint import Stored, check_checkpoint
from .config import RunConfig, read_config
from .imports import INDEX
from .pad_token import write_tokenizer

LARGEST_FILE = 5 * 10**9  # bytes, the default of transformers
FLOAT = 4
FORM = 2  # another number makes exports of before stale


def hf_config(shape: ModelShape, sequence_length: int, eos_id: int, pad_id: int | None = None) -> dict[str, Any]:
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
    } | ({} if pad_id is None else {"pad_token_id": pad_id})


def export_path(workspace: Workspace, run: str, step: int) -> Path:
    return workspace.run(run) / "hf" / f"step-{step:06d}"


def export_hf(
    workspace: Workspace, config: RunConfig, checkpoint: Path, step: int, *, largest: int = LARGEST_FILE
) -> Path:
    """Export a checkpoint that a run has; the folder, which is left alone when it is current.

    No file of weights has more than `largest` bytes, unless a single tensor has.
    """
    inputs = sha256_json([FORM, check_checkpoint(checkpoint).state_sha256])
    folder = export_path(workspace, config.run, step)
    if is_current(folder, inputs):
        return folder
    start_step(folder)
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    _write_weights(folder, Stored(checkpoint), config.shape, largest)
    pad = write_tokenizer(
        workspace.corpus / "tokenizer.json",
        folder / "tokenizer.json",
        eos=config.eos,
        eos_id=config.eos_id,
        vocabulary=config.vocabulary,
        rows=config.shape.vocab_size,
    )
    write_json(folder / "config.json", hf_config(config.shape, config.sequence_length, config.eos_id, pad.id))
    padding = list(range(config.vocabulary, config.shape.vocab_size))  # ids without a token, never to be generated
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": config.eos_id,
            "eos_token_id": config.eos_id,
            "pad_token_id": pad.id,
            "do_sample": False,
        }
        | ({"suppress_tokens": padding} if padding else {}),
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": config.eos,
            "eos_token": config.eos,
            "pad_token": pad.token,
            "model_max_length": config.sequence_length,
            "clean_up_tokenization_spaces": False,
        },
    )
    finish_step(folder, inputs, [path for path in folder.iterdir() if not path.name.startswith(("stage", "."))])
    return folder


def _write_weights(folder: Path, stored: Stored, shape: ModelShape, largest: int) -> None:
    sizes = parameter_shapes(shape)
    groups = _divided({name: FLOAT * math.prod(size) for name, size in sizes.items()}, largest)
    names = ["model.safetensors"]
    if len(groups) > 1:
        names = [f"model-{n:05d}-of-{len(groups):05d}.safetensors" for n in range(1, len(groups) + 1)]
    for file, group in zip(names, groups, strict=True):
        _write_file(folder / file, stored, {name: sizes[name] for name in group})
    if len(groups) > 1:
        listed = {name: file for file, group in zip(names, groups, strict=True) for name in group}
        total = FLOAT * shape.parameters
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": listed})


def _divided(sizes: dict[str, int], largest: int) -> Sequence[Sequence[str]]:
    """The names in order, in groups of at most `largest` bytes or of one tensor."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > largest:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def _write_file(path: Path, stored: Stored, sizes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file: the length of the header as uint64, the header, the values in the order of the names."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in sizes.items():
        begin, end = end, end + FLOAT * math.prod(size)
        header[name] = {"dtype": "F32", "shape": list(size), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, size in sizes.items():
            tensor = stored.whole(name).to(torch.float32)
            assert tuple(tensor.shape) == size, f"{name} has the shape {tuple(tensor.shape)}"
            file.write(tensor.contiguous().numpy().astype("<f4", copy=False).data)


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
